package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	kigov1 "kigo/proto/kigo/v1"
)

// maxLine bounds a line of a conversation, in bytes.
const maxLine = 1 << 20

const converseHelp = `  /clear  forget the conversation
  /bye    leave (or Ctrl-D)
  Ctrl-C  end the answer
A line that ends with \ goes on in the next one.`

// conversation is a talk with a model: its turns so far, and the answer that
// is being written.
type conversation struct {
	*app
	model   generator
	request *kigov1.ExecuteRequest
	opening []*kigov1.ChatMessage
	turns   []*kigov1.ChatMessage
	quiet   bool

	mu     sync.Mutex
	cancel context.CancelFunc // ends the answer being written; nil at the prompt
}

// converse holds a conversation until standard input ends.
func (a *app) converse(ctx context.Context, model generator, opt runOptions, request *kigov1.ExecuteRequest, first string) error {
	c := &conversation{app: a, model: model, request: request, opening: opening(opt.system), quiet: opt.quiet}
	c.turns = c.opening

	// Interrupts end the answer, not the program. The watcher ends, and is
	// waited for, when the conversation is over.
	interrupts, stop := a.notify()
	over := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for {
			select {
			case <-interrupts:
				c.interrupt()
			case <-over:
				return
			}
		}
	})
	defer watcher.Wait()
	defer close(over)
	defer stop()

	fmt.Fprintln(a.stderr, "Type /help for help, Ctrl-D to leave.")
	if first != "" {
		c.turn(ctx, first)
	}
	lines := bufio.NewScanner(a.stdin)
	lines.Buffer(nil, maxLine)
	for {
		text, ok := c.read(lines)
		if !ok {
			break
		}
		switch strings.TrimSpace(text) {
		case "":
		case "/bye":
			return nil
		case "/clear":
			c.turns = c.opening
			fmt.Fprintln(a.stderr, "The conversation is forgotten.")
		case "/help":
			fmt.Fprintln(a.stderr, converseHelp)
		default:
			c.turn(ctx, text)
		}
	}
	fmt.Fprintln(a.stderr)
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("a line has more than %s", formatBytes(maxLine))
	}
	return lines.Err()
}

// read reads what the user says: a line, and the next as long as it ends with
// a backslash.
func (c *conversation) read(lines *bufio.Scanner) (string, bool) {
	fmt.Fprint(c.stderr, ">>> ")
	var text strings.Builder
	for lines.Scan() {
		line, more := strings.CutSuffix(lines.Text(), `\`)
		text.WriteString(line)
		if !more {
			return text.String(), true
		}
		if text.Len() > maxLine {
			break
		}
		text.WriteByte('\n')
		fmt.Fprint(c.stderr, "... ")
	}
	return text.String(), text.Len() > 0
}

// turn asks and prints the answer. What went wrong is printed, too: the
// conversation goes on without that turn.
func (c *conversation) turn(ctx context.Context, user string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.setCancel(cancel)
	defer c.setCancel(nil)

	prompt := chatPrompt(c.turns, user)
	c.request.Prompt = prompt
	out := newTextWriter(c.stdout)
	var said strings.Builder
	answer, err := c.model.Generate(ctx, c.request, func(_ int, text string) error {
		said.WriteString(text)
		return out.Text(text)
	})
	if answer.printed {
		fmt.Fprintln(c.stdout)
	}
	interrupted := ctx.Err() != nil
	switch {
	case err != nil && !interrupted:
		fmt.Fprintf(c.stderr, "kigo: %s\n", escapeControls(describe(err)))
		return
	case interrupted:
		fmt.Fprintln(c.stderr, "[interrupted]")
	case !c.quiet:
		fmt.Fprintln(c.stderr, answer.summary())
	}
	c.turns = append(prompt.Chat.GetMessages(), &kigov1.ChatMessage{Role: "assistant", Content: said.String()})
}

func (c *conversation) setCancel(cancel context.CancelFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancel = cancel
}

// interrupt ends the answer, or says how to leave if there is none.
func (c *conversation) interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel != nil {
		c.cancel()
		return
	}
	fmt.Fprint(c.stderr, "\nCtrl-D or /bye leaves.\n>>> ")
}
