package cli

import (
	"fmt"
	"strings"
)

// answerWriter prints answers one after another: the first as it comes, and the
// others, which come at the same time, when all are there. Several have a line with
// their number before each.
type answerWriter struct {
	out   *textWriter
	texts []strings.Builder // of each answer, but for the first
	begun bool
}

func newAnswerWriter(out *textWriter, answers int32) *answerWriter {
	return &answerWriter{out: out, texts: make([]strings.Builder, answers)}
}

// text takes a piece of an answer.
func (w *answerWriter) text(number int, text string) error {
	if number < 0 || number >= len(w.texts) {
		return wrongAnswer("an answer that was not asked for")
	}
	if number > 0 {
		w.texts[number].WriteString(text)
		return nil
	}
	if err := w.begin(); err != nil {
		return err
	}
	return w.out.Text(text)
}

func (w *answerWriter) begin() error {
	if w.begun {
		return nil
	}
	w.begun = true
	return w.head(0)
}

func (w *answerWriter) head(number int) error {
	if len(w.texts) == 1 {
		return nil
	}
	return w.out.Text(fmt.Sprintf("--- %d ---\n", number+1))
}

// finish prints what is left, as far as it came.
func (w *answerWriter) finish() error {
	if len(w.texts) > 1 {
		if err := w.begin(); err != nil {
			return err
		}
	}
	if w.begun {
		if err := w.out.Text("\n"); err != nil {
			return err
		}
	}
	for i := 1; i < len(w.texts); i++ {
		if err := w.head(i); err != nil {
			return err
		}
		if err := w.out.Text(w.texts[i].String() + "\n"); err != nil {
			return err
		}
	}
	return nil
}
