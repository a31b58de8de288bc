package server_test

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"kigo/engine"
	"kigo/server"
)

// buildTools builds the clients that server/tools/go.mod pins into .bin/, once
// for all tests.
var buildTools = sync.OnceValues(func() (string, error) {
	bin, err := filepath.Abs(filepath.Join("..", ".bin"))
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-C", "tools", "-o", bin+string(filepath.Separator),
		"github.com/fullstorydev/grpcurl/cmd/grpcurl",
		"github.com/grpc-ecosystem/grpc-health-probe")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building grpcurl and grpc-health-probe: %w\n%s", err, out)
	}
	return bin, nil
})

// tool runs one of them and returns what it printed.
func tool(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	bin, err := buildTools()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(bin, name), args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	return out.String(), err
}

func grpcurl(t testing.TB, args ...string) (string, error) {
	t.Helper()
	return tool(t, "grpcurl", args...)
}

// grpcurl drives the whole API with nothing but the address.
func TestGrpcurl(t *testing.T) {
	t.Parallel()
	f := startDemo(t)
	addr := f.GRPCAddr().String()
	for _, c := range []struct {
		name string
		args []string
		want []string
	}{
		{"list", []string{addr, "list"}, []string{
			"kigo.v1.InferenceService", "kigo.v1.ModelService", "kigo.v1.HealthService", "grpc.health.v1.Health",
			"grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
		}},
		{"describe a service", []string{addr, "describe", "kigo.v1.InferenceService"}, []string{
			"rpc Execute ( .kigo.v1.ExecuteRequest ) returns ( stream .kigo.v1.ExecuteResponse );",
		}},
		{"describe a message", []string{addr, "describe", "kigo.v1.Sampling"}, []string{"optional float top_p = 4"}},
		{"Execute", []string{"-d", `{"text": "Hello", "max_tokens": 3, "sampling": {"temperature": 0, "ignore_end": true}}`, addr,
			"kigo.v1.InferenceService/Execute"}, []string{`"started"`, `"tokens"`, `"ids"`, `"STOP_REASON_MAX_TOKENS"`, `"generatedTokens": 3`}},
		{"Health", []string{addr, "kigo.v1.HealthService/Health"}, []string{`"HEALTH_STATUS_READY"`, `"ready": true`, `"architecture": "llama"`}},
		{"Tokenize", []string{"-d", `{"text": "Hello"}`, addr, "kigo.v1.InferenceService/Tokenize"}, []string{`"ids"`}},
		{"List", []string{addr, "kigo.v1.ModelService/List"}, []string{`"name": "demo"`}},
		{"Check", []string{"-d", `{"service": "readiness"}`, addr, "grpc.health.v1.Health/Check"}, []string{`"SERVING"`}},
		{"health List", []string{addr, "grpc.health.v1.Health/List"}, []string{`"liveness"`, `"readiness"`, `"kigo.v1.InferenceService"`}},
	} {
		out, err := grpcurl(t, append([]string{"-plaintext"}, c.args...)...)
		if err != nil {
			t.Errorf("%s: %v: %s", c.name, err, out)
		}
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %s in %s", c.name, want, out)
			}
		}
	}
	// grpcurl prints the details of an error, too.
	out, err := grpcurl(t, "-plaintext", "-d", `{"text": "a", "sampling": {"top_p": 7}}`, addr, "kigo.v1.InferenceService/Execute")
	if err == nil || !strings.Contains(out, "InvalidArgument") || !strings.Contains(out, "sampling.top_p") {
		t.Errorf("an invalid request: %v: %s", err, out)
	}
}

// grpc-health-probe, which Kubernetes users run, agrees with the engine.
func TestGrpcHealthProbe(t *testing.T) {
	t.Parallel()
	b := newFake()
	f := start(t, b, nil, func(c *server.Config) { c.HealthAddress = "127.0.0.1:0" })
	probe := func(addr, service string) error {
		out, err := tool(t, "grpc-health-probe", "-addr", addr, "-service", service)
		if err != nil && !strings.Contains(out, "NOT_SERVING") {
			t.Errorf("%s: %v: %s", service, err, out)
		}
		return err
	}
	for _, addr := range []string{f.GRPCAddr().String(), f.HealthAddr().String()} {
		b.set(func(s *engine.Status) { s.State = engine.StateReady })
		for _, service := range []string{"", "readiness", "liveness", "kigo.v1.InferenceService"} {
			if err := probe(addr, service); err != nil {
				t.Errorf("%q while ready: %v", service, err)
			}
		}
		b.set(func(s *engine.Status) { s.State = engine.StateLoading })
		for service, ok := range map[string]bool{"": false, "readiness": false, "liveness": true} {
			if err := probe(addr, service); (err == nil) != ok {
				t.Errorf("%q while loading: %v", service, err)
			}
		}
	}
}
