package deploy_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/probe"
	grpcprobe "k8s.io/kubernetes/pkg/probe/grpc"
)

// notServing is in what the kubelet says of a server that answers, and says no.
const notServing = "NOT_SERVING"

// ask is one probe, by the kubelet's own code. The manifest's port stands for
// the address that the container listens on in its place.
func (c *container) ask(t *testing.T, s *set, p *corev1.Probe) (bool, string) {
	t.Helper()
	for name, number := range s.ports() {
		if number != p.GRPC.Port {
			continue
		}
		host, port, err := net.SplitHostPort(c.addr[name])
		if err != nil {
			t.Fatalf("address of %s: %v", name, err)
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			t.Fatal(err)
		}
		result, output, err := grpcprobe.New().Probe(host, *p.GRPC.Service, n,
			time.Duration(p.TimeoutSeconds)*time.Second, grpcprobe.ProbeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return result == probe.Success, output
	}
	t.Fatalf("a probe of port %d, and the container's are %v", p.GRPC.Port, s.ports())
	return false, ""
}

// holds is the kubelet's verdict: a probe has failed when it failed as often in a
// row as the manifest says. Here it is asked again at once.
func (c *container) holds(t *testing.T, s *set, p *corev1.Probe) (ok bool, output string) {
	t.Helper()
	for range p.FailureThreshold {
		if ok, output = c.ask(t, s, p); ok {
			break
		}
	}
	return ok, output
}

// expect asks for the verdicts of readiness and liveness.
func (c *container) expect(t *testing.T, s *set, when string, ready, live bool) {
	t.Helper()
	probes := s.probes()
	for name, want := range map[string]bool{"readiness": ready, "liveness": live} {
		ok, output := c.holds(t, s, probes[name])
		if ok != want || !ok && !strings.Contains(output, notServing) {
			t.Errorf("%s: %s probe succeeds: %t, want %t (%s)", when, name, ok, want, output)
		}
	}
}

// until asks a probe again and again, until it says what is wanted.
func (c *container) until(t *testing.T, s *set, p *corev1.Probe, want bool, limit time.Duration) string {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		ok, output := c.ask(t, s, p)
		if ok == want {
			return output
		}
		select {
		case <-c.exited:
			t.Fatalf("it ended, and the probe of %s never said what is wanted", *p.GRPC.Service)
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("after %v the probe of %s still says: %s", limit, *p.GRPC.Service, output)
		}
	}
}

// stream is one POST /execute.
type stream struct {
	begun chan struct{} // closed at the first token, or with done
	done  chan struct{} // closed when it has ended
	err   error         // valid when done is closed, as is what follows
	code  int           // HTTP status
	ids   int           // tokens that came
	end   struct {
		StopReason      string `json:"stop_reason"`
		GeneratedTokens int    `json:"generated_tokens"`
	}
}

// generate asks for exactly n tokens.
func (c *container) generate(ctx context.Context, n int) *stream {
	s := &stream{begun: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		if s.err = s.read(ctx, "http://"+c.addr["http"]+"/execute", n); s.ids == 0 {
			close(s.begun)
		}
	}()
	return s
}

func (s *stream) read(ctx context.Context, url string, n int) error {
	body := fmt.Sprintf(`{"prompt": "one two three four five", "max_tokens": %d, "temperature": 0, "ignore_end": true}`, n)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if s.code = response.StatusCode; s.code != http.StatusOK {
		return nil
	}
	event := ""
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			event = name
		}
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		switch event {
		case "tokens":
			var tokens struct{ IDs []int }
			if err := json.Unmarshal([]byte(data), &tokens); err != nil {
				return err
			}
			if s.ids == 0 {
				close(s.begun)
			}
			s.ids += len(tokens.IDs)
		case "end":
			if err := json.Unmarshal([]byte(data), &s.end); err != nil {
				return err
			}
		case "error":
			return fmt.Errorf("the stream ended with %s", data)
		}
	}
	return lines.Err()
}

// whole waits for the end and says what is wrong with it.
func (s *stream) whole(t *testing.T, n int) {
	t.Helper()
	<-s.done
	if s.err != nil || s.code != http.StatusOK || s.ids != n || s.end.GeneratedTokens != n || s.end.StopReason != "STOP_REASON_MAX_TOKENS" {
		t.Errorf("a stream of %d tokens: status %d, %d tokens came, its end %+v, error %v", n, s.code, s.ids, s.end, s.err)
	}
}

// A pod's life: it starts, serves, is asked to end, and ends in order.
func TestPodLife(t *testing.T) {
	s := kustomized(t)
	probes := s.probes()
	c := start(t, s, model(t))

	// Until the startup probe succeeds the kubelet asks no other, and nobody
	// routes requests here; from then on they must succeed.
	begun := time.Now()
	startup := probes["startup"]
	c.until(t, s, startup, true, time.Duration(startup.PeriodSeconds*startup.FailureThreshold)*time.Second)
	t.Logf("started %v after it listened", time.Since(begun).Round(time.Millisecond))
	const warm = 16
	begun = time.Now()
	c.generate(t.Context(), warm).whole(t, warm)
	perToken := time.Since(begun) / warm
	c.expect(t, s, "serving", true, true)
	c.isConfined(t, s)

	// Two streams, over gRPC and HTTP, that are under way at the signal. The
	// second takes some 6 s here, which is beyond the drain delay.
	n := min(max(int(6*time.Second/perToken), 16), 2000)
	run := c.client(t, "run", "--raw", "--temperature", "0", "--max-tokens", strconv.Itoa(n/4), "one two three four five")
	var summary bytes.Buffer
	run.Stderr = &summary
	text, err := run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 1)
	if _, err := text.Read(first); err != nil {
		t.Fatalf("kigo run: %v\n%s", err, &summary)
	}
	long := c.generate(t.Context(), n)
	<-long.begun

	signalled := time.Now()
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	delay, err := time.ParseDuration(s.flags(t)["--drain-delay"])
	if err != nil {
		t.Fatal(err)
	}
	output := c.until(t, s, probes["readiness"], false, delay)
	if !strings.Contains(output, notServing) {
		t.Errorf("the readiness probe fails after SIGTERM with: %s", output)
	}
	t.Logf("not ready %v after SIGTERM", time.Since(signalled).Round(time.Millisecond))
	// Whoever has not noticed yet is served.
	c.generate(t.Context(), 1).whole(t, 1)

	refused := false
	for more := true; more; {
		if ok, _ := c.ask(t, s, probes["readiness"]); ok {
			t.Fatal("ready again")
		}
		live, output := c.holds(t, s, probes["liveness"])
		select {
		case <-long.done:
			more = false
			continue // what the probes say from now on is nobody's business
		default:
		}
		if !live {
			t.Errorf("the liveness probe fails during the drain: %s", output)
		}
		late := c.generate(t.Context(), 1)
		if <-late.done; !refused && late.code == http.StatusServiceUnavailable {
			refused = true
			t.Logf("work is refused %v after SIGTERM", time.Since(signalled).Round(time.Millisecond))
		}
		time.Sleep(100 * time.Millisecond)
	}
	long.whole(t, n)
	if !refused {
		// The machine has become that much faster within a few seconds. All else
		// has been tested.
		t.Log("the streams ended before the drain delay did")
	}
	rest := new(bytes.Buffer)
	if _, err := rest.ReadFrom(text); err != nil {
		t.Error(err)
	}
	if err := run.Wait(); err != nil || !strings.Contains(summary.String(), fmt.Sprintf("[%d tokens", n/4)) {
		t.Errorf("kigo run: %v\n%s", err, &summary)
	}

	if code := c.wait(t, s.gracePeriod()-time.Since(signalled)); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	t.Logf("ended %v after SIGTERM", time.Since(signalled).Round(time.Millisecond))
}

// isConfined makes sure that the read-only root and the user are real.
func (c *container) isConfined(t *testing.T, s *set) {
	t.Helper()
	if !c.confine {
		return
	}
	process := filepath.Join("/proc", strconv.Itoa(c.cmd.Process.Pid))
	status, err := os.ReadFile(filepath.Join(process, "status"))
	if err != nil {
		t.Fatal(err)
	}
	user := strconv.FormatInt(*s.deployment.Spec.Template.Spec.SecurityContext.RunAsUser, 10)
	if want := "Uid:" + strings.Repeat("\t"+user, 4) + "\n"; !strings.Contains(string(status), want) {
		t.Errorf("it does not run as %s:\n%s", user, status)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Join(process, "root"), &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Flags&unix.ST_RDONLY == 0 {
		t.Error("its root can be written to")
	}
}

// Each probe can fail, and tells what it is there to tell.
func TestProbesTell(t *testing.T) {
	s := kustomized(t)
	// No model from the start.
	args := slices.DeleteFunc(s.container().Args, func(a string) bool { return strings.HasPrefix(a, "--model=") })
	s.container().Args = append(args, "--model-dir="+s.container().VolumeMounts[0].MountPath)
	probes := s.probes()
	c := start(t, s, model(t))
	command := func(args ...string) {
		t.Helper()
		if out, err := c.client(t, args...).CombinedOutput(); err != nil {
			t.Fatalf("kigo %s: %v\n%s", args, err, out)
		}
	}

	if ok, output := c.holds(t, s, probes["startup"]); ok || !strings.Contains(output, notServing) {
		t.Errorf("without a model the startup probe says: %s", output)
	}
	c.expect(t, s, "no model", false, true)

	command("load", "model.gguf", "--name", "smol")
	if ok, output := c.holds(t, s, probes["startup"]); !ok {
		t.Errorf("with a model the startup probe says: %s", output)
	}
	c.expect(t, s, "a model", true, true)

	command("unload", "smol")
	c.expect(t, s, "unloaded", false, true)
}

// A step that hangs ends the container with a code and a last line of its own, so
// that the kubelet starts it again without a probe having to time out.
func TestHangEnds(t *testing.T) {
	s := kustomized(t)
	// What a step takes on any machine is too long, but the watch looks only now and
	// then: it may find the load's own step or one of those that follow.
	args := slices.DeleteFunc(s.container().Args, func(a string) bool { return strings.HasPrefix(a, "--model=") })
	s.container().Args = append(args, "--model-dir="+s.container().VolumeMounts[0].MountPath, "--step-limit=1us")
	c := start(t, s, model(t))
	if out, err := c.client(t, "load", "model.gguf", "--name", "smol").CombinedOutput(); err != nil {
		t.Logf("kigo load: %v\n%s", err, out)
	}
	for ended := false; !ended; {
		busy := c.generate(t.Context(), 2000)
		select {
		case <-c.exited:
			ended = true
		case <-busy.done:
			time.Sleep(5 * time.Millisecond)
		}
	}
	const hung = 71
	if code := c.wait(t, time.Minute); code != hung {
		t.Errorf("exit code %d, want %d", code, hung)
	}
	if last := append([]string{""}, c.log...)[len(c.log)]; !strings.HasPrefix(last, "kigo: ") || !strings.Contains(last, "does not end") {
		t.Errorf("the last line of the log is %q", last)
	}
}

// A model that cannot be loaded ends the process, and the last line of the log,
// which the kubelet takes for its message, says why.
func TestLoadFails(t *testing.T) {
	s := kustomized(t)
	if policy := s.container().TerminationMessagePolicy; policy != corev1.TerminationMessageFallbackToLogsOnError {
		t.Errorf("termination message policy %q: the log is not asked", policy)
	}
	c := start(t, s, "../Containerfile")
	if code := c.wait(t, s.gracePeriod()); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	last := append([]string{""}, c.log...)[len(c.log)]
	if !strings.HasPrefix(last, "kigo: ") || !strings.Contains(last, "model.gguf") || !strings.Contains(last, "GGUF") {
		t.Errorf("the last line of the log is %q", last)
	}
}
