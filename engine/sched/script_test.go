package sched_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kigo/engine/kv"
	"kigo/engine/sched"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the expected output of the scripts")

// TestScripts runs testdata/*.txt. A script is a list of paragraphs: command
// lines, a line of four dashes, and what the commands print. The first
// command is
//
//	config blocks=8 size=4 running=2 waiting=2 chunk=4
//
// and the others are add ID prompt=N most=N, step (one step, whose sequence
// generates a token if its logits were asked for), run N (as many steps at
// most), pause ID, resume ID, remove ID.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			m := &machine{}
			var out []string
			for _, part := range strings.Split(strings.TrimSpace(string(raw)), "\n\n") {
				commands, _, _ := strings.Cut(part, "\n----")
				m.printed.Reset()
				for _, line := range strings.Split(commands, "\n") {
					if !strings.HasPrefix(line, "#") {
						m.do(t, line)
					}
				}
				m.check(t)
				out = append(out, commands+"\n----\n"+m.printed.String())
			}
			got := strings.Join(out, "\n")
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(raw) {
				t.Errorf("got:\n%s\nwant:\n%s", got, raw)
			}
		})
	}
}

// machine runs a script's commands.
type machine struct {
	s       *sched.Scheduler
	pool    *kv.Pool
	held    map[sched.ID]int // blocks that plans have shown, by sequence
	left    map[sched.ID]int // tokens to generate
	printed strings.Builder
}

func (m *machine) do(t *testing.T, line string) {
	word, rest, _ := strings.Cut(line, " ")
	var id sched.ID
	var prompt, most, n int
	scan := func(format string, args ...any) {
		if _, err := fmt.Sscanf(rest, format, args...); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
	}
	switch word {
	case "config":
		var c sched.Config
		var blocks, size int
		scan("blocks=%d size=%d running=%d waiting=%d chunk=%d", &blocks, &size, &c.MaxRunning, &c.MaxWaiting, &c.ChunkRows)
		m.pool = kv.NewPool(blocks, size)
		m.s = sched.New(c, m.pool)
		m.held, m.left = map[sched.ID]int{}, map[sched.ID]int{}
	case "add":
		scan("%d prompt=%d most=%d", &id, &prompt, &most)
		if err := m.s.Add(id, prompt, most); err != nil {
			fmt.Fprintf(&m.printed, "refused: %v\n", err)
			return
		}
		m.left[id] = most - prompt
	case "step":
		m.step(t)
	case "run":
		scan("%d", &n)
		for range n {
			if !m.step(t) {
				return
			}
		}
	case "pause":
		scan("%d", &id)
		m.s.Pause(id)
	case "resume":
		scan("%d", &id)
		m.s.Resume(id)
	case "remove":
		scan("%d", &id)
		m.s.Remove(id)
		delete(m.held, id)
		delete(m.left, id)
	default:
		t.Fatalf("unknown command %q", line)
	}
	if word != "step" && word != "run" {
		fmt.Fprintf(&m.printed, "%s: running %d, waiting %d, blocks %d of %d\n", line, m.s.Running(), m.s.Waiting(), m.pool.Used(), m.pool.Total())
	}
}

func (m *machine) step(t *testing.T) bool {
	p, ok := m.s.Next()
	if !ok {
		fmt.Fprintln(&m.printed, "nothing to do")
		return false
	}
	fmt.Fprintf(&m.printed, "%d: rows %d+%d, blocks %v, logits %t\n", p.ID, p.Start, p.Rows, p.Blocks, p.Logits)
	m.held[p.ID] = len(p.Blocks)
	if need := m.pool.BlocksFor(p.Start + p.Rows); len(p.Blocks) < need {
		t.Errorf("sequence %d has %d blocks for %d tokens", p.ID, len(p.Blocks), p.Start+p.Rows)
	}
	m.s.Done(p)
	if !p.Logits {
		return true
	}
	if m.left[p.ID]--; m.left[p.ID] > 0 {
		if err := m.s.Grow(p.ID); err != nil {
			t.Error(err)
		}
		return true
	}
	m.s.Remove(p.ID)
	delete(m.held, p.ID)
	fmt.Fprintf(&m.printed, "%d ends\n", p.ID)
	return true
}

// check holds the blocks in sequences' hands against the pool's own count.
func (m *machine) check(t *testing.T) {
	held := 0
	for _, n := range m.held {
		held += n
	}
	if held > m.pool.Used() || m.pool.Used()+m.pool.Free() != m.pool.Total() {
		t.Errorf("sequences hold %d blocks; pool: %d used, %d free of %d", held, m.pool.Used(), m.pool.Free(), m.pool.Total())
	}
}
