package sched_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"kigo/engine/sched"
)

var update = flag.Bool("update", false, "rewrite the expected output of the scripts")

// TestScripts runs testdata/*.txt. A script begins with a comment that says what
// it shows, and is a list of paragraphs: command lines, a line of four dashes,
// and what the commands print. The first command is
//
//	config blocks=8 size=4 running=2 waiting=2
//
// with, where they matter, rows=16 chunk=16 aging=1000 tenants=8 pertenant=0,
// cost=10+0 (the ns that a step takes: so many, and so many for each row), and
// reuse for the prefix cache. The others are
//
//	add 1,2 prompt=8 most=12   samples of one prompt; also tenant= prio= deadline= all
//	step, run N                one step, as many steps at most; a sequence whose
//	                           logits are wanted gets a token, and ends at its most
//	begin, end, fail           a step in two parts: plan it; it has run; it has not
//	ahead                      plan the step after the one in flight; end and fail are
//	                           about the older one then
//	miss ID                    its token is another one than the step ahead goes on with
//	wait N                     N ns pass
//	pause ID, resume ID, remove ID
//	limit N                    there is memory for the first N blocks
//	wanted                     how many blocks the next step has a use for, of how many
//	stats
//
// A prompt of x:8+y:4 is 8 tokens of a text x, then 4 of y; prompt=8 is nobody
// else's; g1 is what sequence 1 generates. Token by token, a text is the same
// at the same position only.
//
// A step is printed as its time and, for each sequence, its first row + rows, its
// blocks, and a * if its logits are wanted:
//
//	20: #1 5+1 [0 1]*, #2 0+4 [2 3]
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
			if !strings.HasPrefix(string(raw), "# ") {
				t.Error("the script does not say what it shows")
			}
			m := &machine{}
			var out []string
			for _, part := range strings.Split(strings.TrimSpace(string(raw)), "\n\n") {
				commands, _, _ := strings.Cut(part, "\n----")
				m.printed.Reset()
				for _, line := range strings.Split(commands, "\n") {
					if strings.HasPrefix(line, "#") {
						continue
					}
					if err := m.do(line); err != nil {
						t.Fatalf("%q: %v", line, err)
					}
					if err := m.w.check(); err != nil {
						t.Fatalf("after %q: %v", line, err)
					}
				}
				out = append(out, commands+"\n----\n"+m.printed.String())
			}
			got := strings.Join(out, "\n")
			if *update {
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
	w            *world
	fixed, slope int64 // what a step takes
	printed      strings.Builder
}

func (m *machine) print(format string, args ...any) { fmt.Fprintf(&m.printed, format+"\n", args...) }

func (m *machine) do(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	args := options(rest)
	switch word {
	case "config":
		return m.config(args)
	case "add":
		ids, r, err := request(args)
		if err != nil {
			return err
		}
		var full *sched.FullError
		if err := m.w.add(r, ids...); errors.As(err, &full) {
			m.print("refused: %v; again in %d", err, full.After)
		} else if err != nil {
			m.print("refused: %v", err)
		}
		return nil
	case "wait":
		m.w.now += int64(args.number("", 0))
		return nil
	case "limit":
		n := args.number("", 0)
		if err := m.w.memory(n, m.w.pool.Total(), false); err != nil {
			m.print("refused: %v", err)
			return nil
		}
		return m.w.memory(0, n, true)
	case "wanted":
		m.print("wanted %d, %d of them later; free %d, cached %d", m.w.s.Wanted(), m.w.s.Later(), m.w.pool.Free(), m.w.pool.Cached())
		return nil
	case "stats":
		st := m.w.s.Stats()
		if n := m.w.s.Starved(); n > 0 || m.w.pool.Limit() < m.w.pool.Total() {
			m.print("memory for %d blocks, %d starve", m.w.pool.Limit(), n)
		}
		m.print("running %d, waiting %d, paused %d; blocks %d used, %d cached of %d; rows %d, %d again, %d reused; preempted %d, expired %d; tenants %d",
			m.w.s.Running(), m.w.s.Waiting(), st.Paused, m.w.pool.Used(), m.w.pool.Cached(), m.w.pool.Total(),
			st.Rows, st.Again, st.Reused, st.Preempted, st.Expired, st.Tenants)
		return nil
	case "step":
		_, err := m.step()
		return err
	case "run":
		for range args.number("", 0) {
			if again, err := m.step(); err != nil || !again {
				return err
			}
		}
		return nil
	case "begin":
		_, err := m.begin()
		return err
	case "ahead":
		p, err := m.w.ahead()
		if errors.Is(err, errNotAhead) {
			m.print("%d: not ahead", m.w.now)
			return nil
		}
		if err == nil {
			m.plan("ahead, ", p)
		}
		return err
	case "end", "fail":
		return m.end(word == "end")
	}
	id := sched.ID(args.number("", 0))
	switch word {
	case "pause":
		m.w.pause(id, true)
	case "resume":
		m.w.pause(id, false)
	case "remove":
		m.w.remove(id)
	case "miss":
		m.w.miss = func(other sched.ID) bool { return other == id }
	default:
		return fmt.Errorf("unknown command")
	}
	return nil
}

func (m *machine) config(args settings) (err error) {
	cfg := sched.Config{
		MaxRunning:   args.number("running", 2),
		MaxWaiting:   args.number("waiting", 2),
		MaxPerTenant: args.number("pertenant", 0),
		MaxRows:      args.number("rows", 16),
		ChunkRows:    args.number("chunk", 16),
		Aging:        int64(args.number("aging", 1000)),
		MaxTenants:   args.number("tenants", 8),
		Reuse:        args.has("reuse"),
		Salt:         "model",
	}
	m.fixed, m.slope = 10, 0
	if cost, ok := args["cost"]; ok {
		if _, err := fmt.Sscanf(cost, "%d+%d", &m.fixed, &m.slope); err != nil {
			return err
		}
	}
	m.w, err = newWorld(cfg, args.number("blocks", 8), args.number("size", 4))
	return err
}

func (m *machine) step() (bool, error) {
	if again, err := m.begin(); err != nil || !again {
		return false, err
	}
	return true, m.end(true)
}

func (m *machine) begin() (bool, error) {
	p, err := m.w.begin()
	if errors.Is(err, errInFlight) {
		m.print("%d: a step is in flight", m.w.now)
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return m.plan("", p), nil
}

// plan prints a plan, and says whether there is work in it.
func (m *machine) plan(how string, p *sched.Plan) bool {
	if len(p.Expired) > 0 {
		m.print("%d: %sexpired %v", m.w.now, how, p.Expired)
	}
	if len(p.Preempted) > 0 {
		m.print("%d: %spreempted %v", m.w.now, how, p.Preempted)
	}
	var works []string
	for _, w := range p.Work {
		star := ""
		if w.Logits {
			star = "*"
		}
		works = append(works, fmt.Sprintf("#%d %d+%d %v%s", w.ID, w.Start, w.Rows, w.Blocks, star))
	}
	switch {
	case len(works) > 0:
		m.print("%d: %s%s", m.w.now, how, strings.Join(works, ", "))
	case p.Wake != 0:
		m.print("%d: %snothing to do until %d", m.w.now, how, p.Wake)
	default:
		m.print("%d: %snothing to do", m.w.now, how)
	}
	return len(works) > 0
}

func (m *machine) end(ran bool) error {
	if len(m.w.flights) == 0 {
		return fmt.Errorf("no step is in flight")
	}
	ended, err := m.w.end(m.fixed+m.slope*int64(m.w.flights[0].plan.Rows), ran)
	m.w.miss = nil
	for _, id := range ended {
		m.print("#%d ends", id)
	}
	return err
}

// settings are the key=value words of a line; what has no key has "".
type settings map[string]string

func options(line string) settings {
	s := settings{}
	for _, word := range strings.Fields(line) {
		key, value, ok := strings.Cut(word, "=")
		if !ok && s[""] == "" {
			key, value = "", word
		}
		s[key] = value
	}
	return s
}

func (s settings) has(key string) bool {
	_, ok := s[key]
	return ok || s[""] == key
}

func (s settings) number(key string, otherwise int) int {
	if n, err := strconv.Atoi(s[key]); err == nil {
		return n
	}
	return otherwise
}

// request reads the words of add.
func request(args settings) (ids []sched.ID, r *sched.Request, err error) {
	for _, word := range strings.Split(args[""], ",") {
		id, err := strconv.ParseUint(word, 10, 64)
		if err != nil {
			return nil, nil, err
		}
		ids = append(ids, sched.ID(id))
	}
	r = &sched.Request{
		Most:     args.number("most", 0),
		Tenant:   args["tenant"],
		Priority: args.number("prio", 0),
		Deadline: int64(args.number("deadline", 0)),
		AllRows:  args.has("all"),
	}
	for _, part := range strings.Split(args["prompt"], "+") {
		text, count := "only"+args[""], part
		if t, n, ok := strings.Cut(part, ":"); ok {
			text, count = t, n
		}
		n, err := strconv.Atoi(count)
		if err != nil {
			return nil, nil, fmt.Errorf("prompt part %q: %w", part, err)
		}
		for range n {
			r.Tokens = append(r.Tokens, token(text, len(r.Tokens)))
		}
	}
	return ids, r, nil
}
