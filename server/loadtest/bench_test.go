package loadtest

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"google.golang.org/grpc"

	kigov1 "kigo/proto/kigo/v1"
)

// serveVariable makes the test binary a server that answers at once, for
// BenchmarkClient.
const serveVariable = "KIGO_TEST_LOAD_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(serveVariable) == "" {
		os.Exit(m.Run())
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	g := grpc.NewServer()
	kigov1.RegisterInferenceServiceServer(g, instantServer{})
	kigov1.RegisterHealthServiceServer(g, instantServer{})
	go func() { // until the parent is gone
		_, _ = os.Stdin.Read(make([]byte, 1))
		g.Stop()
	}()
	_ = g.Serve(l)
}

// instantServer sends a token a message: as fast as it can, or, with a temperature, a
// hundred a second, as a model does it for each of many streams.
type instantServer struct {
	kigov1.UnimplementedInferenceServiceServer
	kigov1.UnimplementedHealthServiceServer
}

func (instantServer) Health(context.Context, *kigov1.HealthRequest) (*kigov1.HealthResponse, error) {
	return &kigov1.HealthResponse{Model: &kigov1.Model{Vocabulary: 32000, ContextLength: 1 << 20}}, nil
}

func (instantServer) Execute(r *kigov1.ExecuteRequest, stream grpc.ServerStreamingServer[kigov1.ExecuteResponse]) error {
	send := func(event *kigov1.ExecuteResponse) error { return stream.Send(event) }
	if err := send(&kigov1.ExecuteResponse{Event: &kigov1.ExecuteResponse_Started{Started: &kigov1.Started{RequestId: "x", PromptTokens: 1}}}); err != nil {
		return err
	}
	n := r.GetMaxTokens()
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	for i := range n {
		if r.GetSampling().GetTemperature() > 0 {
			<-pace.C
		}
		if err := send(&kigov1.ExecuteResponse{Event: &kigov1.ExecuteResponse_Tokens{Tokens: &kigov1.Tokens{Index: i, Ids: []int32{i}, Text: " word"}}}); err != nil {
			return err
		}
	}
	return send(&kigov1.ExecuteResponse{Event: &kigov1.ExecuteResponse_End{End: &kigov1.End{
		StopReason: kigov1.StopReason_STOP_REASON_MAX_TOKENS, PromptTokens: 1, GeneratedTokens: n,
	}}})
}

// BenchmarkClient is what a message costs the client, whose server is another
// process on the same machine: messages a second, and CPU time of this process for
// each.
func BenchmarkClient(b *testing.B) {
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), serveVariable+"=1")
	stdin, err := child.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := child.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := child.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		stdin.Close()
		_ = child.Wait()
	}()
	lines := bufio.NewScanner(stdout)
	if !lines.Scan() {
		b.Fatal("the server does not start")
	}
	for _, c := range []struct {
		name        string
		streams     int
		temperature float32
	}{
		{"streams=1", 1, 0}, {"streams=64", 64, 0}, {"streams=512", 512, 0}, {"streams=512,paced", 512, 1},
	} {
		b.Run(c.name, func(b *testing.B) {
			streams := c.streams
			o := Options{
				Temperature: c.temperature,
				Address:     lines.Text(), Concurrency: []int{streams}, Duration: time.Hour, Requests: 4 * streams, Drain: time.Minute,
				Prompt: lengthsOf(b, "16"), MaxTokens: lengthsOf(b, "200"), IgnoreEnd: true,
			}
			var messages, seconds, cores float64
			for b.Loop() {
				report, err := Run(b.Context(), o)
				if err != nil {
					b.Fatal(err)
				}
				r := &report.Results[0]
				if r.Completed != uint64(o.Requests) {
					b.Fatalf("%+v", r)
				}
				messages += float64(r.Messages)
				seconds += r.Seconds
				cores += r.CPU * r.Seconds
			}
			b.ReportMetric(messages/seconds, "messages/s")
			b.ReportMetric(1e6*cores/messages, "cpu-µs/message")
		})
	}
}

func lengthsOf(t testing.TB, text string) Lengths {
	t.Helper()
	l, err := ParseLengths(text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
