package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"
)

// ErrReport is wrapped by all that is wrong with a report that is read.
var ErrReport = errors.New("not a report of kigo bench")

// What a report from outside may hold.
const (
	maxReportBytes = 4 << 20
	maxReportRows  = 1000
	maxNameBytes   = 200

	leastFigure, mostFigure = 1e-12, 1e18
)

// units is what rows are measured in.
var units = []string{"ms", "MB/s", "GB/s", "tokens/s"}

// Read reads a report as JSON and checks what Compare needs of it: every row has a
// name that no other of its unit has, and figures of which a ratio can be made.
func Read(r io.Reader) (*Report, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxReportBytes+1))
	if err != nil {
		return nil, err
	}
	bad := func(format string, args ...any) (*Report, error) {
		return nil, fmt.Errorf("%w: %s", ErrReport, fmt.Sprintf(format, args...))
	}
	if len(data) > maxReportBytes {
		return bad("it has more than %d bytes", maxReportBytes)
	}
	var report Report
	if err := json.Unmarshal(data, &report); err != nil {
		return bad("%v", err)
	}
	if report.Format != reportFormat {
		return bad("bench_format is %d, want %d", report.Format, reportFormat)
	}
	if n := len(report.Rows); n < 1 || n > maxReportRows {
		return bad("%d results, want 1 to %d", n, maxReportRows)
	}
	seen := map[key]bool{}
	for i := range report.Rows {
		row := &report.Rows[i]
		if row.Name == "" || len(row.Name) > maxNameBytes || !utf8.ValidString(row.Name) {
			return bad("result %d has the name %.40q", i, row.Name)
		}
		if !slices.Contains(units, row.Unit) {
			return bad("%q is in %.40q, want one of %v", row.Name, row.Unit, units)
		}
		for _, v := range []float64{row.Median, row.Min, row.Max} {
			if !(v >= leastFigure && v <= mostFigure) {
				return bad("%q: %v %s", row.Name, v, row.Unit)
			}
		}
		if seen[row.key()] {
			return bad("%q in %s stands there twice", row.Name, row.Unit)
		}
		seen[row.key()] = true
	}
	return &report, nil
}

// key is what makes a row the same in two reports.
type key struct{ name, unit string }

func (r *Row) key() key { return key{r.Name, r.Unit} }

// Comparison is a report beside an older one.
type Comparison struct {
	Version string   `json:"kigo_version"` // of the old report, like what follows
	Date    string   `json:"date"`
	Rows    []Ratio  `json:"results"`
	Notes   []string `json:"notes,omitempty"` // what else differs, and rows that one of both lacks
}

// Ratio compares the medians of a row that both reports have. Above 1 is better:
// more of a rate, less of a time.
type Ratio struct {
	Name  string  `json:"name"`
	Unit  string  `json:"unit"`
	Old   float64 `json:"old"`
	New   float64 `json:"new"`
	Ratio float64 `json:"ratio"`
	Rate  bool    `json:"rate"` // it counts for Below
}

// Compare puts r beside old.
func (r *Report) Compare(old *Report) *Comparison {
	c := &Comparison{Version: old.Version, Date: old.Date.Format("2006-01-02")}
	for _, d := range []struct{ what, old, new string }{
		{"model", old.Model.Name, r.Model.Name},
		{"formats", old.Model.Formats, r.Model.Formats},
		{"device", old.Device.Name, r.Device.Name},
		{"driver", old.Device.Driver, r.Device.Driver},
		{"threads", fmt.Sprint(old.Device.Threads), fmt.Sprint(r.Device.Threads)},
	} {
		if d.old != d.new {
			c.Notes = append(c.Notes, fmt.Sprintf("another %s: %.80q then, %.80q now", d.what, d.old, d.new))
		}
	}
	before := map[key]*Row{}
	for i := range old.Rows {
		before[old.Rows[i].key()] = &old.Rows[i]
	}
	for i := range r.Rows {
		now := &r.Rows[i]
		was := before[now.key()]
		if was == nil {
			c.Notes = append(c.Notes, fmt.Sprintf("%q in %s was not measured then", now.Name, now.Unit))
			continue
		}
		delete(before, now.key())
		ratio := now.Median / was.Median
		if !now.IsRate() {
			ratio = was.Median / now.Median
		}
		c.Rows = append(c.Rows, Ratio{now.Name, now.Unit, was.Median, now.Median, ratio, now.IsRate()})
	}
	for i := range old.Rows {
		if was := &old.Rows[i]; before[was.key()] != nil {
			c.Notes = append(c.Notes, fmt.Sprintf("%q in %s was not measured now", was.Name, was.Unit))
		}
	}
	return c
}

// Below lists the rates that are less than the share of what they were. Times are
// not among them: those of a load's stages are short, and scatter.
func (c *Comparison) Below(share float64) []Ratio {
	var below []Ratio
	for _, r := range c.Rows {
		if r.Rate && r.Ratio < share {
			below = append(below, r)
		}
	}
	return below
}

// Rates is how many rates both reports have.
func (c *Comparison) Rates() int {
	n := 0
	for _, r := range c.Rows {
		if r.Rate {
			n++
		}
	}
	return n
}
