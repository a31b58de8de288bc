package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"kigo/engine/device/scripted"
	kigov1 "kigo/proto/kigo/v1"
)

// A device of 20 ms steps whatever their rows, as a GPU with a large model has: a
// thousand streams are then 50,000 tokens a second.
const (
	pacedStep      = 20 * time.Millisecond
	manyStreams    = 1000
	streamsOfConn  = 100 // the server allows 128
	idleBesides    = 5000
	maxServerBytes = 512 << 20
)

func pacedNext(hash uint64) int32 { return int32(32 + hash%90) }

// manyRequest is one of many different prompts of token ids.
func manyRequest(i, tokens int) *kigov1.ExecuteRequest {
	ids := make([]int32, 12+i%20)
	for j := range ids {
		ids[j] = int32(33 + (i*7+j*j)%200)
	}
	greedy, always := float32(0), true
	return &kigov1.ExecuteRequest{
		Prompt:    &kigov1.ExecuteRequest_Tokens{Tokens: &kigov1.TokenIds{Ids: ids}},
		MaxTokens: ptrTo(int32(tokens)),
		Sampling:  &kigov1.Sampling{Temperature: &greedy, IgnoreEnd: &always},
	}
}

func ptrTo[T any](v T) *T { return &v }

// many is a server on a paced device with its clients.
type many struct {
	*process
	conns []*grpc.ClientConn
}

func startMany(t testing.TB) *many {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildServes$")
	args := serveArgs([]string{"--model", tinyModel(t), "--max-concurrent", strconv.Itoa(manyStreams), "--max-context", "1024", "--cache-tokens", "600000",
		"--stream-buffer", "4096", "--keepalive-time", "1h", "--drain-delay", "0", "--log-level", "info"})
	cmd.Env = append(os.Environ(), childKind+"=paced", "KIGO_TEST_ARGS="+strings.Join(args, " "), "GOMAXPROCS=2")
	m := &many{process: follow(t, cmd)}
	m.expect(t, "ready")
	for range manyStreams / streamsOfConn {
		conn, err := grpc.NewClient(m.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		m.conns = append(m.conns, conn)
	}
	return m
}

// stream sends a thousand requests at one time, and checks what each of them says
// and that every token comes in a message of its own.
func (m *many) stream(t testing.TB, tokens int) {
	t.Helper()
	var all sync.WaitGroup
	var messages atomic.Int64
	for i := range manyStreams {
		all.Go(func() {
			r := manyRequest(i, tokens)
			n, err := follows(m.conns[i%len(m.conns)], r)
			if err != nil {
				t.Errorf("stream %d: %v", i, err)
			}
			messages.Add(int64(n))
		})
	}
	all.Wait()
	if got := messages.Load(); got != int64(manyStreams*tokens) {
		t.Errorf("%d messages with tokens, want one for each of %d", got, manyStreams*tokens)
	}
}

// follows reads a stream and says how many of its messages had tokens.
func follows(conn *grpc.ClientConn, r *kigov1.ExecuteRequest) (messages int, err error) {
	stream, err := kigov1.NewInferenceServiceClient(conn).Execute(context.Background(), r)
	if err != nil {
		return 0, err
	}
	text := r.GetTokens().GetIds()
	for end := false; ; {
		res, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && end:
			if got := len(text) - len(r.GetTokens().GetIds()); got != int(r.GetMaxTokens()) {
				return messages, fmt.Errorf("%d tokens", got)
			}
			return messages, nil
		case err != nil:
			return messages, fmt.Errorf("after %d messages: %w", messages, err)
		case res.GetEnd() != nil:
			end = true
		case res.GetTokens() != nil:
			messages++
			for _, id := range res.GetTokens().GetIds() {
				if want := pacedNext(scripted.Hash(text)); id != want {
					return messages, fmt.Errorf("token %d is %d, want %d", len(text), id, want)
				}
				text = append(slices.Clip(text), id)
			}
		}
	}
}

// cpuTime is what the process has spent on processors.
func (m *many) cpuTime(t testing.TB) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.cmd.Process.Pid))
	if err != nil {
		t.Skipf("processor time cannot be measured here: %v", err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	ticks := 0
	for _, f := range fields[11:13] { // user and system, in hundredths of a second
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// A thousand streams beside five thousand connections that do nothing: each says
// what it says alone, a message for a token, and the server stays small.
func TestThousandStreams(t *testing.T) {
	if testing.Short() {
		t.Skip("not with -short: the race detector makes it another test")
	}
	m := startMany(t)
	for range idleBesides {
		conn, err := openIdleGRPC(m.grpc)
		if err != nil {
			t.Fatal(err)
		}
		defer func(c net.Conn) { c.Close() }(conn)
	}
	tokens := 40
	if long() {
		tokens = 500
	}
	m.stream(t, tokens)
	if rss := m.rss(t); rss > maxServerBytes {
		t.Errorf("the server takes %d MiB, at most %d are allowed", rss>>20, maxServerBytes>>20)
	} else {
		t.Logf("the server takes %d MiB", rss>>20)
	}
}

// BenchmarkThousandStreams is what a token costs the server's process, all told: on
// the way from the device's result to the client's socket. Nothing here limits what
// the clients cost, which share the machine.
func BenchmarkThousandStreams(b *testing.B) {
	m := startMany(b)
	m.stream(b, 20) // memory that grows once
	const tokens = 250
	before, begun := m.cpuTime(b), time.Now()
	n := 0
	for b.Loop() {
		m.stream(b, tokens)
		n += manyStreams * tokens
	}
	b.ReportMetric(float64(n)/time.Since(begun).Seconds(), "tokens/s")
	b.ReportMetric(float64((m.cpuTime(b)-before).Microseconds())/float64(n), "server-us/token")
	b.ReportMetric(float64(m.rss(b)>>20), "server-MiB")
	b.ReportMetric(0, "ns/op")
}
