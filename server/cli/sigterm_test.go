package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	kigov1 "kigo/proto/kigo/v1"
)

// The settings of the servers that get SIGTERM.
const (
	termDelay = 300 * time.Millisecond
	termDrain = 500 * time.Millisecond // for streams that are longer than any patience
	termWait  = time.Minute            // for streams that come to their end
	termStop  = 2 * time.Second
)

// TestSIGTERMUnderLoad ends the real binary at random moments of its work.
// Readiness turns before anybody is refused; each stream goes on as it would
// have, or is told that the server shuts down, by the deadline, once; and the
// exit code says whether anything was cut off.
func TestSIGTERMUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("the binary has no race detector in it: see the run without -short")
	}
	rounds := 5
	if long() {
		rounds = 100
	}
	model := tinyModel(t)
	var alone map[string][]int32
	random := rand.New(rand.NewPCG(15, 16))
	for round := range rounds {
		// In two rounds of five, streams run that nobody will see the end of.
		endless, drain := 2*(round%5%2), termWait
		if endless > 0 {
			drain = termDrain
		}
		c := startProcess(t, "--model", model, "--drain-delay", termDelay.String(), "--drain-timeout", drain.String(),
			"--stop-timeout", termStop.String(), "--max-queue", "100")
		c.expect(t, "ready")
		conn, err := grpc.NewClient(c.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		load := &termLoad{t: t, round: round, inference: kigov1.NewInferenceServiceClient(conn), alone: alone}
		if alone == nil {
			load.alone = load.record()
			alone = load.alone
		}
		load.run(6, endless)
		load.watch(healthpb.NewHealthClient(conn))
		for load.well.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)

		asked := time.Now()
		if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		code := c.exit(t)
		took := time.Since(asked)
		load.all.Wait()
		conn.Close()

		if want := min(endless, 1); code != want {
			t.Errorf("round %d: exit code %d, want %d", round, code, want)
		}
		if limit := termDelay + drain + termStop + 5*time.Second; took < termDelay || took > limit {
			t.Errorf("round %d: it took %v to end, want %v to %v", round, took, termDelay, limit)
		}
		if last := time.Unix(0, load.last.Load()).Sub(asked); last > termDelay+drain+5*time.Second {
			t.Errorf("round %d: the last stream ended after %v", round, last)
		}
		log := c.log()
		said := log[len(log)-1]
		if cut := strings.HasPrefix(said, "kigo: drain: "); cut != (endless > 0) {
			t.Errorf("round %d: its last line is %s", round, said)
		}
		t.Logf("round %d: exit code %d after %v; %d streams ended well, %d were told, %d were refused",
			round, code, took.Round(time.Millisecond), load.well.Load(), load.told.Load(), load.refused.Load())
		if endless == 0 && load.refused.Load() == 0 || endless > 0 && load.told.Load() == 0 {
			t.Errorf("round %d has not met a server at work", round)
		}
	}
}

// termLoad is the clients of a server that gets SIGTERM.
type termLoad struct {
	t         *testing.T
	round     int
	inference kigov1.InferenceServiceClient
	alone     map[string][]int32 // what each prompt goes on with

	all                 sync.WaitGroup
	well, told, refused atomic.Int64
	notReady            atomic.Bool
	last                atomic.Int64 // when the latest stream ended, in Unix nanoseconds
}

var termPrompts = []string{"a", "bb", "the", "one two three"}

const termTokens = 100

func (l *termLoad) request(prompt string) *kigov1.ExecuteRequest {
	temperature, ignore, most := float32(0), true, int32(termTokens)
	return &kigov1.ExecuteRequest{
		Prompt:    &kigov1.ExecuteRequest_Text{Text: prompt},
		Sampling:  &kigov1.Sampling{Temperature: &temperature, IgnoreEnd: &ignore},
		MaxTokens: &most,
	}
}

// record runs each prompt alone.
func (l *termLoad) record() map[string][]int32 {
	alone := map[string][]int32{}
	for _, p := range termPrompts {
		ids, started, end, err := l.stream(l.request(p))
		if !started || end == nil || err != nil {
			l.t.Fatalf("alone: %v", err)
		}
		alone[p] = ids
	}
	return alone
}

// stream runs a request to its end, which is an end event or an error.
func (l *termLoad) stream(r *kigov1.ExecuteRequest) (ids []int32, started bool, end *kigov1.End, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := l.inference.Execute(ctx, r)
	for err == nil {
		var res *kigov1.ExecuteResponse
		if res, err = s.Recv(); err != nil {
			break
		}
		switch {
		case end != nil:
			return ids, started, end, fmt.Errorf("an event after the end: %v", res)
		case res.GetStarted() != nil && !started:
			started = true
		case res.GetTokens() != nil && started:
			if int(res.GetTokens().GetIndex()) != len(ids) {
				return ids, started, end, fmt.Errorf("tokens at %d after %d", res.GetTokens().GetIndex(), len(ids))
			}
			ids = append(ids, res.GetTokens().GetIds()...)
		case res.GetEnd() != nil && started:
			end = res.GetEnd()
		default:
			return ids, started, end, fmt.Errorf("%v where it does not belong", res)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
		if end == nil {
			err = errors.New("no terminal status")
		}
	} else if end != nil {
		err = fmt.Errorf("two terminal statuses: %v and %w", end, err)
	}
	return ids, started, end, err
}

// run starts clients that ask again and again, and others that ask once for
// more than there is time for.
func (l *termLoad) run(clients, endless int) {
	for i := range clients + endless {
		l.all.Go(func() {
			for n := 0; ; n++ {
				prompt := termPrompts[(i+n)%len(termPrompts)]
				r := l.request(prompt)
				if i >= clients {
					r.MaxTokens = nil
				}
				ids, started, end, err := l.stream(r)
				l.last.Store(time.Now().UnixNano())
				want := l.alone[prompt]
				if got := ids[:min(len(ids), len(want))]; !slices.Equal(got, want[:len(got)]) {
					l.t.Errorf("round %d, client %d: %v, alone %v", l.round, i, got, want)
				}
				switch {
				case err == nil && int(end.GetGeneratedTokens()) == len(ids) && len(ids) == int(r.GetMaxTokens()):
					l.well.Add(1)
					continue
				case err == nil:
					l.t.Errorf("round %d, client %d: %v after %d tokens", l.round, i, end, len(ids))
				case status.Code(err) != codes.Unavailable:
					l.t.Errorf("round %d, client %d: %v", l.round, i, err)
				case started && reasonOf(err) == "SHUTTING_DOWN":
					l.told.Add(1)
				case started:
					l.t.Errorf("round %d, client %d: a stream was cut off: %v", l.round, i, err)
				default: // refused, by the server or because nobody listens any more
					l.refused.Add(1)
					if !l.notReady.Load() {
						l.t.Errorf("round %d, client %d: refused while the server was ready: %v", l.round, i, err)
					}
				}
				return
			}
		})
	}
}

// watch follows readiness until the server ends.
func (l *termLoad) watch(health healthpb.HealthClient) {
	stream, err := health.Watch(context.Background(), &healthpb.HealthCheckRequest{Service: "readiness"})
	if err == nil {
		var res *healthpb.HealthCheckResponse
		if res, err = stream.Recv(); err == nil && res.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			err = fmt.Errorf("readiness is %v", res.GetStatus())
		}
	}
	if err != nil {
		l.t.Fatal(err)
	}
	l.all.Go(func() {
		res, err := stream.Recv()
		if err != nil || res.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
			l.t.Errorf("round %d: readiness became %v, %v", l.round, res, err)
		}
		l.notReady.Store(true)
		if res, err := stream.Recv(); err == nil {
			l.t.Errorf("round %d: after that readiness became %v", l.round, res)
		}
	})
}

// reasonOf is the machine-readable reason of an error.
func reasonOf(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// SIGTERM while the model is being loaded ends the load, at whatever point,
// and is an orderly end.
func TestSIGTERMDuringLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("the binary has no race detector in it: see the run without -short")
	}
	rounds := 5
	if long() {
		rounds = 50
	}
	random := rand.New(rand.NewPCG(17, 18))
	for round := range rounds {
		c := startProcess(t, "--model", modelPath(t, smolLM2), "--drain-delay", "0")
		time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
		if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code := c.exit(t); code != exitOK {
			t.Errorf("round %d: exit code %d, want 0", round, code)
		}
		if line := c.expect(t, "stopped"); line["cause"] != "terminated signal" {
			t.Errorf("round %d: stopped by %v", round, line["cause"])
		}
	}
}

// A second SIGTERM ends what the first one lets end.
func TestSecondSIGTERMEndsAtOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("the binary has no race detector in it: see the run without -short")
	}
	c := startProcess(t, "--model-dir", t.TempDir(), "--drain-delay", "1h")
	for _, wait := range []string{"draining: not ready any more", ""} {
		if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if wait != "" {
			c.expect(t, wait)
		}
	}
	if code := c.exit(t); code != -1 {
		t.Errorf("exit code %d, want an end by the signal", code)
	}
}
