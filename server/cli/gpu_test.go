package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"kigo/engine"
	"kigo/engine/device/cuda/fault"
	"kigo/engine/device/devices"
	"kigo/engine/device/scripted"
	"kigo/engine/testenv"
)

// gpuChildEngine is a real engine on a real GPU, with whose next step a kernel
// comes that breaks the GPU, once the file says so.
func gpuChildEngine(kind string, cfg engine.Config) (*engine.Engine, error) {
	dev, _, err := devices.Open(devices.Options{Name: "cuda"})
	if err != nil {
		return nil, err
	}
	gpu, err := fault.Open(0)
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	breaks := map[string]func() error{"gpu fault": gpu.BadAddress, "gpu hang": gpu.Spin}[kind]
	var once sync.Once
	return engine.NewOn(cfg, scripted.New(dev, func(call string, _ int) error {
		if call != "Run" {
			return nil
		}
		time.Sleep(5 * time.Millisecond) // a request takes a while
		if !breakNow() {
			return nil
		}
		var failed error
		once.Do(func() { failed = breaks() })
		if failed != nil {
			return fmt.Errorf("the GPU does not break: %w", failed) // not what the test waits for
		}
		return nil
	}))
}

// A kernel that writes to a bad address, and one that never ends, while requests
// run on a real GPU: health turns, every stream ends with UNAVAILABLE and its token
// count, and the process is gone in time, with the code of what happened. A new
// process has the GPU again.
func TestServeEndsWithItsGPU(t *testing.T) {
	testenv.RequireGPU(t)
	models := t.TempDir()
	model := filepath.Join(models, "tiny.gguf")
	kigo(t, "", nil, "synth", model, "--shape", "tiny", "--format", "q8_0").mustSucceed(t)
	for _, c := range []struct {
		kind          string
		code          int
		reason, words string
		least, most   time.Duration // from the fault to health's turn
	}{
		// A fault is seen by the very step. A hang is a step of ten seconds, the least
		// that counts as one; the watch may be a look early.
		{"gpu fault", exitFault, "DEVICE_FAULT", "it has failed", 0, time.Second},
		{"gpu hang", exitHung, "DEVICE_HUNG", "a step does not end", 9 * time.Second, 11 * time.Second},
	} {
		t.Run(c.kind, func(t *testing.T) {
			child := startChild(t, c.kind, "--model", model, "--step-limit", "1m")
			child.until(t, "ready")
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			health := healthpb.NewHealthClient(child.conn)
			var watches []healthpb.Health_WatchClient
			for _, service := range []string{"liveness", "readiness"} {
				w, err := health.Watch(ctx, &healthpb.HealthCheckRequest{Service: service})
				if err != nil {
					t.Fatal(err)
				}
				if res, err := w.Recv(); err != nil || res.GetStatus() != healthpb.HealthCheckResponse_SERVING {
					t.Fatalf("%s before: %v, %v", service, res, err)
				}
				watches = append(watches, w)
			}
			var streams sync.WaitGroup
			begun := make(chan struct{}, 4)
			for range 4 { // two run, two wait
				streams.Go(func() { childStream(t, ctx, child.conn, begun, c.reason) })
			}
			for range 4 {
				<-begun
			}
			broken := time.Now()
			if err := os.WriteFile(child.breaks, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			for _, w := range watches {
				if res, err := w.Recv(); err != nil || res.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
					t.Errorf("health after: %v, %v", res, err)
				}
			}
			turned := time.Now()
			if took := turned.Sub(broken); took < c.least || took > c.most {
				t.Errorf("health turned after %v, want %v to %v", took, c.least, c.most)
			}
			streams.Wait()
			child.ended(t, c.code, c.words)
			took := time.Since(turned)
			if took > 5*time.Second {
				t.Errorf("the process ended after %v", took)
			}
			t.Logf("health turned after %v, the process was gone %v later", turned.Sub(broken), took)

			dev, _, err := devices.Open(devices.Options{Name: "cuda"})
			if err != nil {
				t.Fatalf("the GPU afterwards: %v", err)
			}
			if err := dev.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
