package server_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"kigo/engine"
)

// Check, List and Watch follow the engine through its whole life.
func TestHealthTransitions(t *testing.T) {
	t.Parallel()
	b := newFake()
	b.set(func(s *engine.Status) { s.State = engine.StateEmpty })
	f := start(t, b, nil)
	const yes, no = healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING

	watches := map[string]healthpb.Health_WatchClient{}
	for _, service := range []string{"", "readiness", "liveness", "kigo.v1.InferenceService"} {
		w, err := f.health.Watch(t.Context(), &healthpb.HealthCheckRequest{Service: service})
		if err != nil {
			t.Fatal(err)
		}
		watches[service] = w
	}
	last := map[string]healthpb.HealthCheckResponse_ServingStatus{}
	for _, step := range []struct {
		name        string
		change      func(*engine.Status)
		ready, live healthpb.HealthCheckResponse_ServingStatus
	}{
		{"empty", func(*engine.Status) {}, no, yes},
		{"loading", func(s *engine.Status) { s.State = engine.StateLoading }, no, yes},
		{"ready", func(s *engine.Status) { s.State = engine.StateReady }, yes, yes},
		{"busy", func(s *engine.Status) { s.BusySince, s.Waiting = time.Now(), 9999 }, yes, yes},
		{"unloaded", func(s *engine.Status) { s.State = engine.StateEmpty }, no, yes},
	} {
		b.set(step.change)
		list, err := f.health.List(t.Context(), &healthpb.HealthListRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for service, watch := range watches {
			want := step.ready
			if service == "liveness" {
				want = step.live
			}
			if got := f.check(t, service); got != want {
				t.Errorf("%s: Check of %q: %v", step.name, service, got)
			}
			if got := list.GetStatuses()[service].GetStatus(); got != want {
				t.Errorf("%s: List of %q: %v", step.name, service, got)
			}
			if before, known := last[service]; known && before == want {
				continue // a watch tells changes only
			}
			if res, err := watch.Recv(); err != nil || res.GetStatus() != want {
				t.Errorf("%s: Watch of %q: %v, %v", step.name, service, res, err)
			}
			last[service] = want
		}
	}
}

func TestHealthOfAnUnknownService(t *testing.T) {
	t.Parallel()
	f := start(t, newFake(), nil)
	_, err := f.health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "nobody"})
	if refusalOf(t, err).code != codes.NotFound {
		t.Errorf("Check: %v", err)
	}
	// The protocol wants Watch to stay, in case the service appears.
	watch, err := f.health.Watch(t.Context(), &healthpb.HealthCheckRequest{Service: "nobody"})
	if err != nil {
		t.Fatal(err)
	}
	if res, err := watch.Recv(); err != nil || res.GetStatus() != healthpb.HealthCheckResponse_SERVICE_UNKNOWN {
		t.Errorf("Watch: %v, %v", res, err)
	}
}
