package deploy_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	yamlstream "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	podoptions "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/apps"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	appsvalidation "k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/apis/networking"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	networkingvalidation "k8s.io/kubernetes/pkg/apis/networking/validation"
	"k8s.io/kubernetes/pkg/apis/policy"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	policyvalidation "k8s.io/kubernetes/pkg/apis/policy/validation"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const (
	manifests = "../kubernetes"
	writer    = "models-writer.yaml" // applied by hand
)

// decode reads one document into the API's own type. A field that the type does
// not have, or that comes twice, is an error.
func decode(doc []byte) (runtime.Object, error) {
	var head runtime.TypeMeta
	if err := yaml.Unmarshal(doc, &head); err != nil {
		return nil, err
	}
	obj, err := legacyscheme.Scheme.New(schema.FromAPIVersionAndKind(head.APIVersion, head.Kind))
	if err != nil {
		return nil, err
	}
	return obj, yaml.UnmarshalStrict(doc, obj)
}

// decodeFile reads all documents of a file.
func decodeFile(t *testing.T, name string) []runtime.Object {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(manifests, name))
	if err != nil {
		t.Fatal(err)
	}
	var all []runtime.Object
	docs := yamlstream.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
	for {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		obj, err := decode(doc)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all = append(all, obj)
	}
}

// set is what `kubectl apply -k` sends, one of each kind but for the services.
type set struct {
	namespace  *corev1.Namespace
	account    *corev1.ServiceAccount
	claim      *corev1.PersistentVolumeClaim
	deployment *appsv1.Deployment
	services   []*corev1.Service
	network    *networkingv1.NetworkPolicy
	budget     *policyv1.PodDisruptionBudget
	all        []runtime.Object
}

// container is the one container of the deployment.
func (s *set) container() *corev1.Container { return &s.deployment.Spec.Template.Spec.Containers[0] }

// kustomized builds the set with kustomize's own code, and with the API server's
// defaults in the fields that are not there.
func kustomized(t *testing.T) *set {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), manifests)
	if err != nil {
		t.Fatal(err)
	}
	s := &set{}
	for _, r := range built.Resources() {
		doc, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		obj, err := decode(doc)
		if err != nil {
			t.Fatalf("%s: %v", r.CurId(), err)
		}
		legacyscheme.Scheme.Default(obj)
		s.all = append(s.all, obj)
		switch obj := obj.(type) {
		case *corev1.Namespace:
			s.namespace = obj
		case *corev1.ServiceAccount:
			s.account = obj
		case *corev1.PersistentVolumeClaim:
			s.claim = obj
		case *appsv1.Deployment:
			s.deployment = obj
		case *corev1.Service:
			s.services = append(s.services, obj)
		case *networkingv1.NetworkPolicy:
			s.network = obj
		case *policyv1.PodDisruptionBudget:
			s.budget = obj
		default:
			t.Errorf("%s: no test knows this kind", r.CurId())
		}
	}
	if s.namespace == nil || s.account == nil || s.claim == nil || s.deployment == nil ||
		len(s.services) == 0 || s.network == nil || s.budget == nil || len(s.all) != 6+len(s.services) {
		t.Fatalf("the set is not complete: %d objects", len(s.all))
	}
	if n := len(s.deployment.Spec.Template.Spec.Containers); n != 1 {
		t.Fatalf("%d containers, want 1", n)
	}
	return s
}

// writerPod is the pod that people apply by hand.
func writerPod(t *testing.T) *corev1.Pod {
	t.Helper()
	all := decodeFile(t, writer)
	pod, ok := all[0].(*corev1.Pod)
	if !ok || len(all) != 1 || len(pod.Spec.Containers) != 1 {
		t.Fatalf("%s: want one pod with one container", writer)
	}
	return pod
}

// Every file is in the set, but for the one that people apply by hand.
func TestEveryManifestIsInTheSet(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(manifests, "kustomization.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var k types.Kustomization
	if err := yaml.UnmarshalStrict(content, &k); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(manifests, "*"))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range files {
		if name := filepath.Base(f); name != "kustomization.yaml" && name != writer {
			found = append(found, name)
		}
	}
	if listed := slices.Sorted(slices.Values(k.Resources)); !slices.Equal(listed, found) {
		t.Errorf("kustomization.yaml lists\n  %s\nand the folder has\n  %s", listed, found)
	}
	for _, name := range append(found, writer) {
		decodeFile(t, name) // strictly, before kustomize has a chance to drop anything
	}
}

// The API server would take it: its own defaults, then its own validation.
func TestAPIServerTakesTheManifests(t *testing.T) {
	s := kustomized(t)
	pod := writerPod(t)
	pod.Namespace = s.namespace.Name // given on the command line
	for _, obj := range append(s.all, pod) {
		kind := obj.GetObjectKind().GroupVersionKind()
		for _, e := range admit(t, obj) {
			t.Errorf("%s: %v", kind.Kind, e)
		}
	}
}

// The check above finds what is wrong.
func TestAPIServerRefusesBadManifests(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*set) runtime.Object
		field string
	}{
		"selector that matches no pod": {func(s *set) runtime.Object {
			s.deployment.Spec.Selector.MatchLabels["app.kubernetes.io/name"] = "other"
			return s.deployment
		}, "spec.template.metadata.labels"},
		"probe of no port": {func(s *set) runtime.Object {
			s.container().LivenessProbe.GRPC.Port = 0
			return s.deployment
		}, "livenessProbe.grpc.port"},
		"mount of no volume": {func(s *set) runtime.Object {
			s.container().VolumeMounts[0].Name = "other"
			return s.deployment
		}, "volumeMounts[0].name"},
		"service of a bad port name": {func(s *set) runtime.Object {
			s.services[0].Spec.Ports[0].Name = "gRPC"
			return s.services[0]
		}, "spec.ports[0].name"},
		"claim of nothing": {func(s *set) runtime.Object {
			s.claim.Spec.Resources.Requests = nil
			return s.claim
		}, "spec.resources[storage]"},
		"budget of both kinds": {func(s *set) runtime.Object {
			s.budget.Spec.MinAvailable = s.budget.Spec.MaxUnavailable
			return s.budget
		}, "spec"},
		"policy of a bad port": {func(s *set) runtime.Object {
			s.network.Spec.Ingress[0].Ports[0].Port.StrVal = "not a port"
			return s.network
		}, "spec.ingress[0].ports[0].port"},
	} {
		t.Run(name, func(t *testing.T) {
			errs := admit(t, c.spoil(kustomized(t)))
			if !slices.ContainsFunc(errs, func(e *field.Error) bool { return strings.HasSuffix(e.Field, c.field) }) {
				t.Errorf("errors %v, want one about %s", errs, c.field)
			}
		})
	}
}

// admit is what the API server finds wrong with obj.
func admit(t *testing.T, obj runtime.Object) field.ErrorList {
	t.Helper()
	kind := obj.GetObjectKind().GroupVersionKind()
	legacyscheme.Scheme.Default(obj)
	internal, err := legacyscheme.Scheme.ConvertToVersion(obj, schema.GroupVersion{Group: kind.Group, Version: runtime.APIVersionInternal})
	if err != nil {
		t.Fatalf("%s: %v", kind, err)
	}
	switch o := internal.(type) {
	case *core.Namespace:
		return corevalidation.ValidateNamespace(o)
	case *core.ServiceAccount:
		return corevalidation.ValidateServiceAccount(o)
	case *core.PersistentVolumeClaim:
		return corevalidation.ValidatePersistentVolumeClaim(o, corevalidation.ValidationOptionsForPersistentVolumeClaim(o, nil))
	case *core.Service:
		if o.Spec.ClusterIP != "" { // as the registry does before it validates
			o.Spec.ClusterIPs = []string{o.Spec.ClusterIP}
		}
		return corevalidation.ValidateServiceCreate(o)
	case *core.Pod:
		return corevalidation.ValidatePodCreate(o, podoptions.GetValidationOptionsFromPodSpecAndMeta(&o.Spec, nil, &o.ObjectMeta, nil))
	case *apps.Deployment:
		return appsvalidation.ValidateDeployment(o, podoptions.GetValidationOptionsFromPodTemplate(&o.Spec.Template, nil))
	case *networking.NetworkPolicy:
		return networkingvalidation.ValidateNetworkPolicy(o, networkingvalidation.NetworkPolicyValidationOptions{})
	case *policy.PodDisruptionBudget:
		return policyvalidation.ValidatePodDisruptionBudget(o, policyvalidation.PodDisruptionBudgetValidationOptions{})
	}
	t.Fatalf("%T: no validation known", internal)
	return nil
}
