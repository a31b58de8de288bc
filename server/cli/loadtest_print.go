package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"kigo/server/loadtest"
)

// printLoadTest prints what was measured as tables, a row for each run.
func (a *app) printLoadTest(r *loadtest.Report) error {
	s := &r.Server
	fmt.Fprintf(a.stdout, "%s on %s, kigo %s at %s\n", escapeControls(s.Model), escapeControls(s.Device), escapeControls(s.Version), escapeControls(s.Address))
	fmt.Fprintln(a.stdout, loadInWords(&r.Load))
	fmt.Fprintln(a.stdout)
	if len(r.Results) == 0 {
		fmt.Fprintln(a.stdout, "Nothing was measured.")
		return nil
	}
	if err := printThroughput(a.stdout, r.Results); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout)
	if err := printLatencies(a.stdout, r.Results); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout)
	for i := range r.Results {
		fmt.Fprintf(a.stdout, "%s: %s\n", r.Results[i].Load(), escapeControls(endsInWords(&r.Results[i])))
	}
	notes := r.Notes
	if r.Interrupted {
		notes = append(notes[:len(notes):len(notes)], "interrupted: the last run is cut short")
	}
	if len(notes) > 0 {
		fmt.Fprintln(a.stdout)
	}
	for _, n := range notes {
		fmt.Fprintf(a.stdout, "Note: %s\n", n)
	}
	return nil
}

// loadInWords is what was asked of the server, on a line or two.
func loadInWords(l *loadtest.Load) string {
	what := "tokens"
	if l.Text {
		what = "words"
	}
	parts := []string{fmt.Sprintf("Prompts of %s %s", l.Prompt, what)}
	if l.SharedPrefix > 0 {
		parts[0] += fmt.Sprintf(" (the first %d the same)", l.SharedPrefix)
	}
	parts[0] += fmt.Sprintf(", %s to generate", l.MaxTokens)
	if l.Waves {
		parts = append(parts, "in waves")
	}
	measured := fmt.Sprintf("after %s of warm-up", formatSeconds(l.WarmUp))
	if l.Duration > 0 {
		measured = formatSeconds(l.Duration) + " " + measured
	}
	if l.Requests > 0 {
		measured = plural(l.Requests, "request") + " " + measured
	}
	parts = append(parts, measured)
	if l.Cancel > 0 {
		parts = append(parts, percent(l.Cancel)+" cancelled")
	}
	if l.Slow > 0 {
		parts = append(parts, percent(l.Slow)+" slow readers")
	}
	parts = append(parts, fmt.Sprintf("seed %d", l.Seed))
	text := strings.Join(parts, "; ")
	var bounds []string
	if l.FirstTokenWithin > 0 {
		bounds = append(bounds, fmt.Sprintf("its first token within %s ms", formatRate(l.FirstTokenWithin)))
	}
	if l.GapWithin > 0 {
		bounds = append(bounds, fmt.Sprintf("no gap above %s ms", formatRate(l.GapWithin)))
	}
	if len(bounds) > 0 {
		text += "\nA request is good with " + strings.Join(bounds, " and ")
	}
	return text
}

func formatSeconds(s float64) string { return time.Duration(s * float64(time.Second)).String() }

func printThroughput(out io.Writer, runs []loadtest.Result) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "load\trequests\tcompleted\tfailed\trequests/s\ttokens/s\tdecode tokens/s\tshare of time\tgood/s\tgood\t")
	for i := range runs {
		r := &runs[i]
		decode, share := "", ""
		if r.DecodePerSecond > 0 {
			decode, share = formatRate(r.DecodePerSecond), percent(r.DecodeShare)
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t\n", r.Load(), r.Requests, r.Completed, r.Failed+r.Broken,
			formatRate(r.RequestsPerSecond), formatRate(r.TokensPerSecond), decode, share, formatRate(r.GoodPerSecond), percent(r.GoodShare))
	}
	return w.Flush()
}

func printLatencies(out io.Writer, runs []loadtest.Result) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "load\tlatency, ms\tcount\tp50\tp90\tp99\tmax\t")
	for i := range runs {
		r := &runs[i]
		for _, l := range []struct {
			name string
			of   *loadtest.Latency
		}{{"first token", &r.FirstToken}, {"between tokens", &r.Gap}, {"cancel", &r.Cancelling}} {
			if l.of.Count > 0 {
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t\n", r.Load(), l.name, l.of.Count,
					formatRate(l.of.P50), formatRate(l.of.P90), formatRate(l.of.P99), formatRate(l.of.Max))
			}
		}
	}
	return w.Flush()
}

// endsInWords is how a run's requests ended.
func endsInWords(r *loadtest.Result) string {
	var parts []string
	add := func(n uint64, what string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, what))
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(r.Stops)) {
		add(r.Stops[reason], "ended with "+reason)
	}
	if calls := r.Stops["cancelled"]; r.Cancelled > calls {
		add(r.Cancelled-calls, "cancelled by leaving")
	}
	add(r.Dropped, "slow readers dropped")
	add(r.Unfinished, "cut off")
	add(r.Interrupted, "interrupted")
	add(r.Unsent, "not sent")
	for _, e := range r.Errors {
		add(e.Count, strings.TrimSpace("failed with "+e.Code+" "+e.Reason))
	}
	for _, rule := range slices.Sorted(maps.Keys(r.Violations)) {
		add(r.Violations[rule], "broke the protocol: "+rule)
	}
	if len(parts) == 0 {
		return "no request ended"
	}
	return strings.Join(parts, ", ")
}
