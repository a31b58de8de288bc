package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
)

// isTerminal reports whether a reader or writer is a person's terminal.
func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// escapeControls makes text that comes from a file or a server harmless for a
// terminal: control characters, among them the escape that begins terminal
// commands, are written as \x1b, invalid UTF-8 as \xff. Newlines and tabs go
// through.
func escapeControls(s string) string {
	if !strings.ContainsFunc(s, isControl) && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case isControl(r) && r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		case isControl(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteString(s[i : i+size])
		}
		i += size
	}
	return b.String()
}

// isControl reports characters that can command a terminal: C0 but for newline
// and tab, DEL, C1, and the marks that override the direction of text.
func isControl(r rune) bool {
	switch {
	case r == '\n' || r == '\t':
		return false
	case r < 0x20, r >= 0x7f && r < 0xa0:
		return true
	case r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
		return true
	}
	return false
}

// textWriter writes text that a model or a server made: as it is into a pipe
// or a file, escaped on a terminal.
type textWriter struct {
	w      io.Writer
	escape bool
}

func newTextWriter(w io.Writer) *textWriter { return &textWriter{w: w, escape: isTerminal(w)} }

// Text writes a piece of text that begins and ends with whole runes.
func (t *textWriter) Text(s string) error {
	if t.escape {
		s = escapeControls(s)
	}
	_, err := io.WriteString(t.w, s)
	return err
}
