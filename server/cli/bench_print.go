package cli

import (
	"fmt"
	"io"
	"text/tabwriter"

	"kigo/engine/bench"
)

// printBench prints what was measured as tables.
func (a *app) printBench(o *benchOutput) error {
	r := o.Report
	fmt.Fprintf(a.stdout, "%s (%s, %s parameters) on %s, %s\n",
		escapeControls(r.Model.Name), r.Model.Formats, formatCount(r.Model.Parameters), escapeControls(benchDevice(&r.Device)), plural(r.Runs, "run"))
	if m := r.Rates; m != nil {
		speed, unit := m.Matrix.PerSecond/1e12, "TFLOP/s"
		if speed < 1 {
			speed, unit = 1e3*speed, "GFLOP/s"
		}
		fmt.Fprintf(a.stdout, "The device moves %s GB/s (%s), takes in %s GB/s (%s),\nand computes %s %s (%s).\n",
			formatRate(m.Copy.PerSecond/1e9), m.Copy.Method, formatRate(m.Upload.PerSecond/1e9), m.Upload.Method,
			formatRate(speed), unit, m.Matrix.Method)
	}
	fmt.Fprintln(a.stdout)
	if err := printBenchRows(a.stdout, r.Rows); err != nil {
		return err
	}
	for i := range r.Profiles {
		fmt.Fprintln(a.stdout)
		if err := printBenchProfile(a.stdout, &r.Profiles[i]); err != nil {
			return err
		}
	}
	if o.Comparison != nil {
		fmt.Fprintln(a.stdout)
		if err := printComparison(a.stdout, o.Comparison); err != nil {
			return err
		}
	}
	notes := r.Notes
	if o.Comparison != nil {
		notes = append(notes[:len(notes):len(notes)], o.Comparison.Notes...)
	}
	if len(notes) > 0 {
		fmt.Fprintln(a.stdout)
	}
	for _, n := range notes {
		fmt.Fprintf(a.stdout, "Note: %s\n", escapeControls(n))
	}
	return nil
}

// benchDevice names a device with what drives it.
func benchDevice(d *bench.Device) string {
	switch {
	case d.Driver != "":
		return fmt.Sprintf("%s (%s)", d.Name, d.Driver)
	case d.Threads > 0:
		return fmt.Sprintf("%s, %s", d.Name, plural(d.Threads, "thread"))
	}
	return d.Name
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func printBenchRows(out io.Writer, rows []bench.Row) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "measurement\tmedian\tfrom\tto\tunit\truns\tlimit\tshare\tby\t")
	for i := range rows {
		r := &rows[i]
		limit, share := "", ""
		if r.Limit > 0 {
			limit, share = formatRate(r.Limit), percent(r.Share)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\t\n", r.Name, formatRate(r.Median), formatRate(r.Min), formatRate(r.Max), r.Unit, r.Runs, limit, share, r.By)
	}
	return w.Flush()
}

func printBenchProfile(out io.Writer, p *bench.Profile) error {
	fmt.Fprintf(out, "%s: %s after %d others\n", p.Step, plural(p.Rows, "token"), p.Start)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "operators\tcount\tµs each\tµs in all\tlimit\tshare\tby\t")
	sum, least := 0.0, 0.0
	for _, t := range p.Parts {
		limit, share := "", ""
		if t.Limit > 0 {
			limit, share = formatRate(t.Limit), percent(t.Share)
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t\n", escapeControls(t.Name), t.Count, formatRate(t.Each), formatRate(t.All), limit, share, t.By)
		sum, least = sum+t.All, least+t.Limit
	}
	share := ""
	if least > 0 && sum > 0 {
		share = percent(least / sum)
	}
	fmt.Fprintf(w, "all\t\t\t%s\t%s\t%s\t\t\n", formatRate(sum), formatRate(least), share)
	return w.Flush()
}

func printComparison(out io.Writer, c *bench.Comparison) error {
	fmt.Fprintf(out, "Against kigo %.80q of %s; a ratio above 1 is better\n", c.Version, c.Date)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "measurement\tthen\tnow\tunit\tratio\t")
	for _, r := range c.Rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.3f\t\n", r.Name, formatRate(r.Old), formatRate(r.New), r.Unit, r.Ratio)
	}
	return w.Flush()
}

func percent(share float64) string { return formatRate(100*share) + " %" }

// formatRate rounds to three digits.
func formatRate(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
