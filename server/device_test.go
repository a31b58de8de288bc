package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"kigo/engine"
	"kigo/engine/device"
	"kigo/engine/device/cpu"
	scripteddevice "kigo/engine/device/scripted"
	kigov1 "kigo/proto/kigo/v1"
	"kigo/server"
)

// brokenDevice serves the small model with the real engine on a device that
// works until break is set, and then fails in one way or another.
type brokenDevice struct {
	broken atomic.Bool
	at     atomic.Int64 // when it broke, Unix nanoseconds
	err    error        // nil: it hangs
	stuck  chan struct{}
}

func (d *brokenDevice) script(call string, _ int) error {
	if call != "Run" || !d.broken.Load() {
		return nil
	}
	d.at.CompareAndSwap(0, time.Now().UnixNano())
	if d.err == nil {
		<-d.stuck
	}
	return d.err
}

// since is how long ago it broke.
func (d *brokenDevice) since() time.Duration { return time.Since(time.Unix(0, d.at.Load())) }

func startBroken(t *testing.T, d *brokenDevice, set ...func(*server.Config)) *fixture {
	t.Helper()
	on, err := cpu.New(cpu.Config{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	d.stuck = make(chan struct{})
	e, err := engine.NewOn(engine.Config{MaxContext: smallContext, MaxConcurrent: 2, StepLimit: 500 * time.Millisecond},
		scripteddevice.New(on, d.script))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = e.Close()
		close(d.stuck)
		_ = on.Close()
	})
	loadFile(t, e, smallModel(t))
	return start(t, nil, e, set...)
}

// A device that fails: health turns everywhere at once, every stream, running
// or queued, over gRPC and HTTP, ends with UNAVAILABLE and the number of the
// tokens that it was sent, and Serve ends with the kind of the failure, in time
// for the process to be gone within five seconds.
func TestFailedDevice(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		err    error
		want   error
		reason string
	}{
		{"fault", fmt.Errorf("launch of attend: %w", device.ErrLost), engine.ErrDeviceFault, "DEVICE_FAULT"},
		{"gone", fmt.Errorf("launch of attend: %w", device.ErrGone), engine.ErrDeviceLost, "DEVICE_LOST"},
		{"hung", nil, engine.ErrDeviceHung, "DEVICE_HUNG"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := &brokenDevice{err: c.err}
			f := startBroken(t, d, func(c *server.Config) { c.HealthAddress = "127.0.0.1:0" })
			watches := map[string]healthpb.Health_WatchClient{}
			for _, service := range []string{"", "liveness", "readiness", "kigo.v1.InferenceService"} {
				w, err := f.health.Watch(t.Context(), &healthpb.HealthCheckRequest{Service: service})
				if err != nil {
					t.Fatal(err)
				}
				if res, err := w.Recv(); err != nil || res.GetStatus() != healthpb.HealthCheckResponse_SERVING {
					t.Fatalf("%q before: %v, %v", service, res, err)
				}
				watches[service] = w
			}

			// Two run, the others wait; each has had what it can.
			endless := textRequest("Once upon a time", smallContext-100)
			endless.Sampling.IgnoreEnd = ptr(true)
			var streams []grpc.ServerStreamingClient[kigov1.ExecuteResponse]
			got := []*answer{}
			for range 3 {
				stream, err := f.inference.Execute(t.Context(), endless)
				if err != nil {
					t.Fatal(err)
				}
				a := &answer{}
				res, err := stream.Recv()
				if err != nil {
					t.Fatal(err)
				}
				a.add(t, res)
				streams, got = append(streams, stream), append(got, a)
			}
			for i := range 2 {
				res, err := streams[i].Recv()
				if err != nil {
					t.Fatal(err)
				}
				got[i].add(t, res)
			}
			body := f.post(t, `{"prompt": "over HTTP", "max_tokens": 50, "sampling": {"ignore_end": true}}`)
			defer body.Body.Close()

			d.broken.Store(true)
			for service, w := range watches {
				if res, err := w.Recv(); err != nil || res.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
					t.Errorf("%q after: %v, %v", service, res, err)
				}
			}
			if late := d.since(); late > time.Second && !raceDetector {
				t.Errorf("health turned after %v", late)
			}
			for i, stream := range streams {
				for {
					res, err := stream.Recv()
					if err == nil {
						got[i].add(t, res)
						continue
					}
					checkFailedStream(t, err, c.reason, len(got[i].ids))
					break
				}
			}
			events := readEvents(t, body.Body)
			if last := events[len(events)-1]; last.name != "error" || !strings.Contains(last.data, c.reason) ||
				!strings.Contains(last.data, fmt.Sprintf(`"generated_tokens":%d`, len(events)-2)) {
				t.Errorf("over HTTP: %v after %d events", last, len(events)-1)
			}
			if err := <-f.served; !errors.Is(err, c.want) {
				t.Errorf("Serve returned %v", err)
			}
			if late := d.since(); late > 5*time.Second && !raceDetector {
				t.Errorf("Serve returned after %v", late)
			}
		})
	}
}

func checkFailedStream(t *testing.T, err error, reason string, tokens int) {
	t.Helper()
	if r := refusalOf(t, err); r.code != codes.Unavailable || r.reason != reason || r.retry == 0 {
		t.Errorf("a stream ended with %+v", r)
	}
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetMetadata()["generated_tokens"] != fmt.Sprint(tokens) {
			t.Errorf("a stream of %d tokens ended with %v", tokens, info)
		}
	}
}

// A device that fails while the server shuts down is a failed device, not an
// orderly end; what is left of the wait for load balancers is dropped.
func TestFailedDeviceWhileDraining(t *testing.T) {
	t.Parallel()
	d := &brokenDevice{err: device.ErrLost}
	f := startBroken(t, d, func(c *server.Config) { c.DrainDelay = time.Hour })
	r := textRequest("Once upon a time", smallContext-100)
	r.Sampling.IgnoreEnd = ptr(true)
	stream, err := f.inference.Execute(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	eventually(t, "not ready", func() bool {
		res, err := http.Get(f.http + "/readyz")
		if err == nil {
			res.Body.Close()
		}
		return err == nil && res.StatusCode == http.StatusServiceUnavailable
	})
	d.broken.Store(true)
	for err == nil {
		_, err = stream.Recv()
	}
	if errors.Is(err, io.EOF) {
		t.Error("the stream ended well")
	}
	if err := <-f.served; !errors.Is(err, engine.ErrDeviceFault) {
		t.Errorf("Serve returned %v", err)
	}
}
