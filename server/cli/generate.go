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
	// Generate passes the text to emit as it comes, in pieces of whole runes,
	// with the number of the answer that it belongs to. The result is also valid
	// where there is an error, as far as it came.
	Generate(ctx context.Context, r *kigov1.ExecuteRequest, emit func(number int, text string) error) (answer, error)
	Close() error
}

// answer is how a generation went, of one answer or several.
type answer struct {
	printed   bool // some text was emitted
	answers   int
	stop      string // why each answer ended
	prompt    int    // tokens
	generated int    // tokens of all answers
	prefill   time.Duration
	decode    time.Duration // of the answer that took longest
}

// add counts an answer that has ended.
func (r *answer) add(stop string, generated int, decode time.Duration) {
	if r.answers++; r.answers > 1 {
		stop = r.stop + ", " + stop
	}
	r.stop, r.generated, r.decode = stop, r.generated+generated, max(r.decode, decode)
}

// summary is the line printed after an answer.
func (r answer) summary() string {
	speed := ""
	if after := r.generated - r.answers; after > 0 && r.decode > 0 { // what came after the first tokens
		speed = fmt.Sprintf(", %.1f tokens/s", float64(after)/r.decode.Seconds())
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

func (m *remote) Generate(ctx context.Context, r *kigov1.ExecuteRequest, emit func(int, string) error) (answer, error) {
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
				if err := emit(int(e.Tokens.GetSample()), text); err != nil {
					return a, err
				}
			}
		case *kigov1.ExecuteResponse_End:
			a.prompt = int(e.End.GetPromptTokens())
			a.prefill = e.End.GetTimings().GetPrefill().AsDuration()
			for _, one := range e.End.GetSamples() {
				a.add(stopNames(one.GetStopReason()), int(one.GetGeneratedTokens()), one.GetTimings().GetDecode().AsDuration())
			}
			if a.answers == 0 {
				a.add(stopNames(e.End.GetStopReason()), int(e.End.GetGeneratedTokens()), e.End.GetTimings().GetDecode().AsDuration())
			}
			return a, nil
		}
	}
}

func stopNames(r kigov1.StopReason) string { return enumName(r.String(), "STOP_REASON_") }
