package server_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"kigo/engine"
	kigov1 "kigo/proto/kigo/v1"
	"kigo/server"
)

// post sends a body to /execute.
func (f *fixture) post(t testing.TB, body string) *http.Response {
	t.Helper()
	res, err := http.Post(f.http+"/execute", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// sse is one server-sent event.
type sse struct{ name, data string }

// readEvents reads server-sent events to the end of the body.
func readEvents(t testing.TB, r io.Reader) []sse {
	t.Helper()
	var events []sse
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		if e, ok := readEvent(t, scanner); ok {
			events = append(events, e)
		}
	}
	if err := scanner.Err(); err != nil {
		t.Errorf("reading events: %v", err)
	}
	return events
}

// readEvent reads the rest of an event of which the scanner has the first
// line.
func readEvent(t testing.TB, scanner *bufio.Scanner) (sse, bool) {
	t.Helper()
	var e sse
	for {
		line := scanner.Text()
		if line == "" {
			return e, e.name != ""
		}
		field, value, ok := strings.Cut(line, ": ")
		switch {
		case ok && field == "event" && e.name == "":
			e.name = value
		case ok && field == "data" && e.data == "":
			e.data = value
		default:
			t.Errorf("not a line of an event: %q", line)
		}
		if !scanner.Scan() {
			return e, e.name != ""
		}
	}
}

func writeFile(t testing.TB, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHTTPRoutes(t *testing.T) {
	t.Parallel()
	b := newFake()
	f := start(t, b, nil)
	for _, c := range []struct {
		state  engine.State
		routes map[string]int
	}{
		{engine.StateReady, map[string]int{"/health": 200, "/healthz": 200, "/readyz": 200, "/metrics": 200, "/other": 404, "/execute": 405}},
		{engine.StateLoading, map[string]int{"/health": 503, "/healthz": 200, "/readyz": 503, "/metrics": 200}},
		{engine.StateEmpty, map[string]int{"/health": 503, "/healthz": 200, "/readyz": 503}},
	} {
		b.set(func(s *engine.Status) { s.State = c.state })
		for path, want := range c.routes {
			if code, body := f.get(t, path); code != want {
				t.Errorf("state %d: %s: %d, want %d: %s", c.state, path, code, want, body)
			}
		}
	}
}

func TestHTTPHealthIsTheSameAsGRPC(t *testing.T) {
	t.Parallel()
	b := newFake()
	b.set(func(s *engine.Status) { s.Steps, s.Tokens, s.KVUsed, s.KVTotal = 7, 5, 1, 9 })
	f := start(t, b, nil, func(c *server.Config) { c.Version = "1.2.3" })
	_, body := f.get(t, "/health")
	overHTTP := &kigov1.HealthResponse{}
	if err := protojson.Unmarshal([]byte(body), overHTTP); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	overGRPC, err := f.kigo.Health(t.Context(), &kigov1.HealthRequest{})
	if err != nil {
		t.Fatal(err)
	}
	overHTTP.Uptime, overGRPC.Uptime = nil, nil
	if a, b := protojson.Format(overHTTP), protojson.Format(overGRPC); a != b {
		t.Errorf("over HTTP %s\nover gRPC %s", a, b)
	}
	if overGRPC.GetVersion() != "1.2.3" || overGRPC.GetSteps() != 7 || overGRPC.GetModel().GetName() != "fake" || !overGRPC.GetReady() {
		t.Errorf("Health: %v", overGRPC)
	}
}

func TestHTTPMetrics(t *testing.T) {
	t.Parallel()
	b := submits(newFake(), func() server.TokenStream { return scripted("a", "b") })
	b.set(func(s *engine.Status) {
		s.Running, s.Waiting, s.KVUsed, s.KVTotal, s.KVTokens, s.Steps, s.Tokens = 2, 3, 1, 4, 16, 11, 12
		s.KVMapped, s.Model.Memory.KV, s.Model.Memory.KVReserved = 2, 2048, 4096
	})
	f := start(t, b, nil)
	f.mustExecute(t, textRequest("a", 2))
	f.get(t, "/no/such/route")
	_, body := f.get(t, "/metrics")
	for _, want := range []string{
		"kigo_ready 1", "kigo_live 1", "kigo_requests_running 2", "kigo_requests_waiting 3",
		"kigo_kv_blocks_used 1", "kigo_kv_blocks 4", "kigo_kv_blocks_mapped 2", "kigo_kv_short 0",
		"kigo_kv_memory_bytes 2048", "kigo_kv_reserved_bytes 4096", "kigo_kv_refused_total 0",
		"kigo_steps_total 11", "kigo_generated_tokens_total 12",
		`kigo_requests_total{end="end"} 1`, "kigo_prompt_tokens_total 1", "kigo_time_to_first_token_seconds_count 1",
		"kigo_time_between_tokens_seconds_count 1", "kigo_queue_seconds_count 1", "kigo_prefill_seconds_count 1",
		"kigo_decode_seconds_count 1", "kigo_request_duration_seconds_count 1",
		`vllm:num_requests_running{model_name="fake"} 2`,
		`vllm:num_requests_waiting{model_name="fake"} 3`,
		`vllm:kv_cache_usage_perc{model_name="fake"} 0.25`,
		`vllm:cache_config_info{block_size="16",num_gpu_blocks="4"} 1`,
		`grpc_server_handled_total{grpc_code="OK",grpc_method="Execute",grpc_service="kigo.v1.InferenceService",grpc_type="server_stream"} 1`,
		"go_goroutines ", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(body, "\n"+want) {
			t.Errorf("no %q in the metrics", want)
		}
	}
	if strings.Contains(body, "no/such") {
		t.Error("a stranger's path has made a series")
	}
}

func TestHTTPRefusals(t *testing.T) {
	t.Parallel()
	f := start(t, submits(newFake(), func() server.TokenStream { return scripted("x") }), nil,
		func(c *server.Config) { c.MaxMessageBytes = 1 << 10 })
	for _, c := range []struct {
		name, contentType, body string
		code                    int
		reason                  string
		fields                  []string
	}{
		{"no type", "", `{"prompt": "a"}`, 415, "WRONG_CONTENT_TYPE", nil},
		{"form", "application/x-www-form-urlencoded", `{"prompt": "a"}`, 415, "WRONG_CONTENT_TYPE", nil},
		{"no JSON", "application/json", `prompt`, 400, "MALFORMED_MESSAGE", nil},
		{"empty", "application/json", ``, 400, "MALFORMED_MESSAGE", nil},
		{"too large", "application/json", `{"prompt": "` + strings.Repeat("x", 2<<10) + `"}`, 413, "MESSAGE_TOO_LARGE", nil},
		{"unknown field", "application/json", `{"prompt": "a", "nonsense": 1}`, 400, "INVALID_REQUEST", []string{"nonsense"}},
		{"no prompt", "application/json", `{}`, 400, "INVALID_REQUEST", []string{"prompt"}},
		{"all at once", "application/json", `{"prompt": "a", "top_p": 2, "min_p": -1, "max_tokens": 0}`, 400, "INVALID_REQUEST",
			[]string{"sampling.top_p", "sampling.min_p", "max_tokens"}},
		{"not served", "application/json", `{"prompt": "a", "resume_grace": "1s", "priority": 1}`, 501, "NOT_SERVED", []string{"resume_grace"}},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.http+"/execute", strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		if c.contentType != "" {
			req.Header.Set("Content-Type", c.contentType)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Error struct {
				Code, Reason, Message string
				Violations            []struct{ Field, Description string }
			}
		}
		err = json.NewDecoder(res.Body).Decode(&got)
		res.Body.Close()
		if err != nil || res.StatusCode != c.code || got.Error.Reason != c.reason || got.Error.Code == "" || got.Error.Message == "" {
			t.Errorf("%s: %d %+v %v, want %d %s", c.name, res.StatusCode, got, err, c.code, c.reason)
		}
		var fields []string
		for _, v := range got.Error.Violations {
			fields = append(fields, v.Field)
		}
		if strings.Join(sorted(fields), " ") != strings.Join(sorted(c.fields), " ") {
			t.Errorf("%s: violations of %v, want %v", c.name, fields, c.fields)
		}
	}
}

// A client that dribbles its headers or its body is cut off.
func TestHTTPSlowClients(t *testing.T) {
	t.Parallel()
	f := start(t, newFake(), nil, func(c *server.Config) { c.ConnectionTimeout = 200 * time.Millisecond })
	for name, head := range map[string]string{
		"headers": "POST /execute HTTP/1.1\r\nHost: x\r\nContent-Ty",
		"body":    "POST /execute HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
	} {
		conn, err := net.Dial("tcp", f.HTTPAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte(head)); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		// Until the server closes.
		if rest, err := io.ReadAll(conn); err != nil {
			t.Errorf("slow %s: %v after %q", name, err, rest)
		}
	}
	eventually(t, "the places", func() bool { return f.CallsInFlight() == 0 })
}

func TestHTTPHeaderLimit(t *testing.T) {
	t.Parallel()
	f := start(t, newFake(), nil)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.http+"/healthz", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Large", strings.Repeat("x", 64<<10))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return // closed while the client still wrote: refused as well
	}
	res.Body.Close()
	if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("64 KiB of headers: %d", res.StatusCode)
	}
}

// The events over HTTP are those over gRPC.
func TestHTTPExecuteIsTheSameAsGRPC(t *testing.T) {
	t.Parallel()
	f := start(t, submits(newFake(), func() server.TokenStream { return scripted("héllo", "\n", "wörld") }), nil)
	r := textRequest("a", 3)
	r.CorrelationId = ptr("abc-1")
	r.MetricsInterval = durationpbZero()
	body, err := protojson.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	res := f.post(t, string(body))
	defer res.Body.Close()
	if got := res.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("content type %q", got)
	}
	a := &answer{}
	for _, e := range readEvents(t, res.Body) {
		// The event's name is the oneof's field.
		msg := &kigov1.ExecuteResponse{}
		if err := protojson.Unmarshal([]byte(`{"`+e.name+`": `+e.data+`}`), msg); err != nil {
			t.Fatalf("%v: %v", e, err)
		}
		a.add(t, msg)
	}
	b := f.mustExecute(t, r)
	if a.text != b.text || a.text != "héllo\nwörld" || a.started.GetCorrelationId() != "abc-1" || len(a.metrics) != 3 ||
		protojson.Format(a.end) != protojson.Format(b.end) || protojson.Format(a.started) != protojson.Format(b.started) {
		t.Errorf("over HTTP %+v\nover gRPC %+v", a, b)
	}
}

// A client that closes its connection cancels the request.
func TestHTTPDisconnectCancels(t *testing.T) {
	t.Parallel()
	b := newFake()
	cancelled := make(chan struct{})
	b.submit = func(ctx context.Context, _ engine.Request) (server.TokenStream, error) {
		context.AfterFunc(ctx, func() { close(cancelled) })
		return &fakeStream{next: func(ctx context.Context, n int) (engine.Event, error) {
			if n == 0 {
				return tokenEvent(0, "x"), nil
			}
			<-ctx.Done() // the next token never comes
			return engine.Event{}, ctx.Err()
		}}, nil
	}
	f := start(t, b, nil)
	conn, err := net.Dial("tcp", f.HTTPAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	body := `{"prompt": "a"}`
	var head bytes.Buffer
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.http+"/execute", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if err := req.Write(&head); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(head.Bytes()); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	for line := ""; !strings.Contains(line, "event: tokens"); {
		if line, err = reader.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	conn.Close()
	select {
	case <-cancelled:
	case <-time.After(patience):
		t.Fatal("the request was never cancelled")
	}
}
