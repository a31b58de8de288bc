package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"

	kigov1 "kigo/proto/kigo/v1"
)

// generator answers prompts: a server, or a model in this process.
type generator interface {
	// Generate passes the answer's text to emit as it comes, in pieces of
	// whole runes. The answer is also valid where there is an error, as far
	// as it came.
	Generate(ctx context.Context, r *kigov1.ExecuteRequest, emit func(string) error) (answer, error)
	Close() error
}

// answer is how a generation went.
type answer struct {
	printed   bool // some text was emitted
	stop      string
	prompt    int // tokens
	generated int // tokens
	prefill   time.Duration
	decode    time.Duration
}

// summary is the line printed after an answer.
func (r answer) summary() string {
	speed := ""
	if r.generated > 1 && r.decode > 0 {
		speed = fmt.Sprintf(", %.1f tokens/s", float64(r.generated-1)/r.decode.Seconds())
	}
	return fmt.Sprintf("[%d tokens%s; prompt of %d tokens in %s; stopped: %s]",
		r.generated, speed, r.prompt, formatDuration(r.prefill), r.stop)
}

// remote generates on a server.
type remote struct {
	address string
	conn    *grpc.ClientConn
}

func (m *remote) Close() error { return m.conn.Close() }

func (m *remote) Generate(ctx context.Context, r *kigov1.ExecuteRequest, emit func(string) error) (answer, error) {
	// What ends this function ends the stream.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var a answer
	stream, err := kigov1.NewInferenceServiceClient(m.conn).Execute(ctx, r)
	if err != nil {
		return a, &serverError{m.address, err}
	}
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return a, &serverError{m.address, wrongAnswer("the stream ended without an end event")}
		}
		if err != nil {
			return a, &serverError{m.address, err}
		}
		switch e := event.GetEvent().(type) {
		case *kigov1.ExecuteResponse_Tokens:
			if text := e.Tokens.GetText(); text != "" {
				a.printed = true
				if err := emit(text); err != nil {
					return a, err
				}
			}
		case *kigov1.ExecuteResponse_End:
			a.stop = enumName(e.End.GetStopReason().String(), "STOP_REASON_")
			a.prompt = int(e.End.GetPromptTokens())
			a.generated = int(e.End.GetGeneratedTokens())
			a.prefill = e.End.GetTimings().GetPrefill().AsDuration()
			a.decode = e.End.GetTimings().GetDecode().AsDuration()
			return a, nil
		}
	}
}
