package deploy_test

import (
	"fmt"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// flags are the arguments of the container after the command: --name=value, or
// --name alone.
func (s *set) flags(t *testing.T) map[string]string {
	t.Helper()
	args := s.container().Args
	if len(args) == 0 || args[0] != "serve" {
		t.Fatalf("arguments %q, want serve first", args)
	}
	flags := map[string]string{}
	for _, a := range args[1:] {
		name, value, _ := strings.Cut(a, "=")
		if _, twice := flags[name]; twice || !strings.HasPrefix(name, "--") {
			t.Errorf("argument %q: want --name=value, once", a)
		}
		flags[name] = value
	}
	return flags
}

// listeners are the flags that say where Kigo listens, by the names of the
// container's ports.
var listeners = map[string]string{"grpc": "--listen", "http": "--http-listen", "health": "--health-listen"}

// ports are the numbers of the container's ports by their names.
func (s *set) ports() map[string]int32 {
	ports := map[string]int32{}
	for _, p := range s.container().Ports {
		ports[p.Name] = p.ContainerPort
	}
	return ports
}

func (s *set) probes() map[string]*corev1.Probe {
	c := s.container()
	return map[string]*corev1.Probe{"startup": c.StartupProbe, "readiness": c.ReadinessProbe, "liveness": c.LivenessProbe}
}

// Everything that names a port means the same one.
func TestPorts(t *testing.T) {
	s := kustomized(t)
	flags, ports := s.flags(t), s.ports()
	if len(ports) != len(listeners) {
		t.Errorf("ports %v, want those of %v", ports, listeners)
	}
	for name, flag := range listeners {
		host, port, err := net.SplitHostPort(flags[flag])
		if err != nil || host != "" || port != strconv.Itoa(int(ports[name])) {
			t.Errorf("%s=%s, want every address of the pod and port %d, which is called %s", flag, flags[flag], ports[name], name)
		}
	}
	for name, p := range s.probes() {
		if p == nil || p.GRPC == nil || p.GRPC.Port != ports["health"] {
			t.Errorf("%s probe %v, want gRPC on the health port %d: the kubelet has no credentials", name, p, ports["health"])
		}
	}
	for _, service := range s.services {
		for _, p := range service.Spec.Ports {
			if n := ports[p.TargetPort.StrVal]; n == 0 || n != p.Port || p.Name == "health" {
				t.Errorf("service %s: port %d to %s, and the container's ports are %v", service.Name, p.Port, &p.TargetPort, ports)
			}
		}
	}
}

// Whatever selects pods selects those of the deployment.
func TestSelectors(t *testing.T) {
	s := kustomized(t)
	template := s.deployment.Spec.Template
	selectors := map[string]*metav1.LabelSelector{
		"deployment": s.deployment.Spec.Selector,
		"network":    &s.network.Spec.PodSelector,
		"budget":     s.budget.Spec.Selector,
	}
	for _, service := range s.services {
		selectors["service "+service.Name] = metav1.SetAsLabelSelector(service.Spec.Selector)
	}
	for i, c := range template.Spec.TopologySpreadConstraints {
		selectors["spread "+strconv.Itoa(i)] = c.LabelSelector
	}
	for name, selector := range selectors {
		match, err := metav1.LabelSelectorAsSelector(selector)
		if err != nil || match.Empty() || !match.Matches(labels.Set(template.Labels)) {
			t.Errorf("%s: selector %v (%v) and the pod's labels %v", name, match, err, template.Labels)
		}
	}
}

// There is no authentication: the policy is what keeps others out.
func TestNetworkPolicy(t *testing.T) {
	s := kustomized(t)
	ports, spec := s.ports(), s.network.Spec
	if !slices.Contains(spec.PolicyTypes, networkingv1.PolicyTypeIngress) || !slices.Contains(spec.PolicyTypes, networkingv1.PolicyTypeEgress) {
		t.Errorf("policy types %v, want both: what is not named is open", spec.PolicyTypes)
	}
	if len(spec.Egress) != 0 {
		t.Errorf("egress %v, and Kigo opens no connection", spec.Egress)
	}
	allowed := map[string]bool{}
	for i, rule := range spec.Ingress {
		if len(rule.From) == 0 || len(rule.Ports) == 0 {
			t.Errorf("rule %d: without from or ports it lets everybody in, or to every port", i)
		}
		for _, peer := range rule.From {
			if peer.PodSelector == nil || len(peer.PodSelector.MatchLabels) == 0 {
				t.Errorf("rule %d lets every pod in", i)
			}
		}
		for _, p := range rule.Ports {
			if ports[p.Port.StrVal] == 0 || p.Port.StrVal == "health" {
				t.Errorf("rule %d: port %s, and the container's are %v", i, p.Port, ports)
			}
			allowed[p.Port.StrVal] = true
		}
	}
	if !allowed["grpc"] || !allowed["http"] {
		t.Errorf("nobody reaches the ports that %v leaves out", allowed)
	}
}

// The namespace enforces Kubernetes' strictest profile; its own code says that
// the pods keep to it. What it does not ask for is checked here.
func TestPodSecurity(t *testing.T) {
	s := kustomized(t)
	open := api.LevelVersion{Level: api.LevelPrivileged, Version: api.LatestVersion()} // where no label says more
	enforced, errs := api.PolicyToEvaluate(s.namespace.Labels, api.Policy{Enforce: open, Audit: open, Warn: open})
	if len(errs) > 0 || enforced.Enforce.Level != api.LevelRestricted {
		t.Fatalf("the namespace enforces %s (%v), want restricted", &enforced, errs)
	}
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	img := readImage(t)
	hand := writerPod(t)
	template := s.deployment.Spec.Template
	for name, pod := range map[string]*corev1.Pod{
		"deployment": {ObjectMeta: template.ObjectMeta, Spec: template.Spec},
		writer:       hand,
	} {
		result := policy.AggregateCheckResults(evaluator.EvaluatePod(enforced.Enforce, &pod.ObjectMeta, &pod.Spec))
		if !result.Allowed {
			t.Errorf("%s: %s", name, result.ForbiddenDetail())
		}
		for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			sc := c.SecurityContext
			if sc == nil || sc.ReadOnlyRootFilesystem == nil || !*sc.ReadOnlyRootFilesystem {
				t.Errorf("%s: the root of %s can be written to", name, c.Name)
			}
			if sc != nil && (sc.RunAsUser != nil || sc.RunAsGroup != nil) {
				t.Errorf("%s: %s has a user of its own", name, c.Name)
			}
			if c.Resources.Limits.Memory().IsZero() {
				t.Errorf("%s: %s may take all of the node's memory", name, c.Name)
			}
		}
		sc := pod.Spec.SecurityContext
		if sc.RunAsUser == nil || sc.RunAsGroup == nil {
			t.Fatalf("%s: no user or group", name)
		}
		if user := fmt.Sprintf("%d:%d", *sc.RunAsUser, *sc.RunAsGroup); user != img.user {
			t.Errorf("%s runs as %s, the image as %s: one cannot read what the other wrote", name, user, img.user)
		}
		if v := pod.Spec.AutomountServiceAccountToken; v == nil || *v {
			t.Errorf("%s: a token of the API server is mounted", name)
		}
		if v := pod.Spec.EnableServiceLinks; v == nil || *v {
			t.Errorf("%s: variables such as KIGO_PORT come from the Service", name)
		}
	}
	if got := s.deployment.Spec.Template.Spec.ServiceAccountName; got != s.account.Name {
		t.Errorf("service account %q, and the set has %q", got, s.account.Name)
	}
}

// Kigo reads the file that the writer's pod writes, and cannot write it.
func TestModelMount(t *testing.T) {
	s := kustomized(t)
	model := s.flags(t)["--model"]
	hand := writerPod(t)
	for name, c := range map[string]struct {
		spec     corev1.PodSpec
		readOnly bool
	}{
		"deployment": {s.deployment.Spec.Template.Spec, true},
		writer:       {hand.Spec, false},
	} {
		mounts := c.spec.Containers[0].VolumeMounts
		if len(mounts) != 1 || mounts[0].MountPath != path.Dir(model) || mounts[0].ReadOnly != c.readOnly {
			t.Errorf("%s: mounts %v, want one at %s, read-only %t", name, mounts, path.Dir(model), c.readOnly)
		}
		volumes := c.spec.Volumes
		if len(volumes) != 1 || volumes[0].PersistentVolumeClaim == nil || volumes[0].PersistentVolumeClaim.ClaimName != s.claim.Name {
			t.Errorf("%s: volumes %v, want the claim %s", name, volumes, s.claim.Name)
		}
	}
	if replicas := *s.deployment.Spec.Replicas; replicas > 1 && !slices.Contains(s.claim.Spec.AccessModes, corev1.ReadWriteMany) {
		t.Errorf("%d replicas and access modes %v: those on a second node would not start", replicas, s.claim.Spec.AccessModes)
	}
}

// Nothing that takes time is cut off by something that waits less.
func TestTimes(t *testing.T) {
	s := kustomized(t)
	flags := s.flags(t)
	var ending time.Duration
	// Stopping comes twice: for the connections, and for the last traces.
	for _, name := range []string{"--drain-delay", "--drain-timeout", "--stop-timeout", "--stop-timeout"} {
		d, err := time.ParseDuration(flags[name])
		if err != nil {
			t.Errorf("%s: %v; the grace period is reckoned from it", name, err)
		}
		ending += d
	}
	if s.container().Lifecycle != nil {
		t.Error("a lifecycle hook takes its time from the grace period, and this test does not know how much")
	}
	if grace := s.gracePeriod(); grace <= ending {
		t.Errorf("grace period %v, and an orderly end takes up to %v", grace, ending)
	}
	startup := s.container().StartupProbe
	loading := time.Duration(startup.PeriodSeconds*startup.FailureThreshold) * time.Second
	if deadline := time.Duration(*s.deployment.Spec.ProgressDeadlineSeconds) * time.Second; deadline <= loading {
		t.Errorf("a rollout fails after %v, and the startup probe waits %v", deadline, loading)
	}
}

func (s *set) gracePeriod() time.Duration {
	return time.Duration(*s.deployment.Spec.Template.Spec.TerminationGracePeriodSeconds) * time.Second
}

// A node can be drained, and somebody goes on serving.
func TestDisruption(t *testing.T) {
	s := kustomized(t)
	down := s.budget.Spec.MaxUnavailable
	if down == nil || down.IntValue() < 1 || *s.deployment.Spec.Replicas <= int32(down.IntValue()) {
		t.Errorf("%d replicas, of which the budget lets %v be away", *s.deployment.Spec.Replicas, down)
	}
	update := s.deployment.Spec.Strategy.RollingUpdate
	if update == nil || update.MaxUnavailable.IntValue() != 0 {
		t.Errorf("rollout %v, want a new replica ready before an old one ends", update)
	}
}

// The image is the one that kustomization.yaml names, with a version.
func TestImageIsReplaced(t *testing.T) {
	s := kustomized(t)
	img := s.container().Image
	if err := pinned(img); err != nil || !strings.Contains(img, "/kigo") {
		t.Errorf("image %s (%v), want the registry's name of it, and a version", img, err)
	}
}
