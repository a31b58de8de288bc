package bench

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

func reportOf(rows ...Row) *Report {
	return &Report{
		Format: reportFormat, Version: "v1", Date: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), Runs: 3,
		Model:  Model{Name: "m", Formats: "F16"},
		Device: Device{Kind: "cuda", Name: "H100", Driver: "580, CUDA 13.0"},
		Rows:   rows,
	}
}

func TestCompare(t *testing.T) {
	old := reportOf(row("load", "ms", []float64{200}), row("prefill 512", "tokens/s", []float64{1000, 900, 1100}),
		row("decode", "tokens/s", []float64{100}), row("gone", "GB/s", []float64{5}), row("twice", "ms", []float64{1}), row("twice", "GB/s", []float64{4}))
	now := reportOf(row("load", "ms", []float64{100}), row("prefill 512", "tokens/s", []float64{950}),
		row("decode", "tokens/s", []float64{94}), row("fresh", "tokens/s", []float64{1}), row("twice", "ms", []float64{2}), row("twice", "GB/s", []float64{8}))
	now.Device.Driver = "590, CUDA 13.1"
	c := now.Compare(old)
	want := []Ratio{
		{"load", "ms", 200, 100, 2, false},
		{"prefill 512", "tokens/s", 1000, 950, 0.95, true},
		{"decode", "tokens/s", 100, 94, 0.94, true},
		{"twice", "ms", 1, 2, 0.5, false},
		{"twice", "GB/s", 4, 8, 2, true},
	}
	if len(c.Rows) != len(want) {
		t.Fatalf("%+v", c.Rows)
	}
	for i, r := range c.Rows {
		if math.Abs(r.Ratio-want[i].Ratio) > 1e-9 {
			t.Errorf("%+v, want %+v", r, want[i])
		}
		r.Ratio = want[i].Ratio
		if r != want[i] {
			t.Errorf("%+v, want %+v", r, want[i])
		}
	}
	notes := strings.Join(c.Notes, "\n")
	for _, n := range []string{`another driver: "580, CUDA 13.0" then, "590, CUDA 13.1" now`, `"fresh" in tokens/s was not measured then`, `"gone" in GB/s was not measured now`} {
		if !strings.Contains(notes, n) {
			t.Errorf("notes %s lack %s", notes, n)
		}
	}
	if len(c.Notes) != 3 || c.Version != "v1" || c.Date != "2026-11-23" || c.Rates() != 3 {
		t.Errorf("%+v", c)
	}
	for share, below := range map[float64]string{0.95: "decode", 0.94: "", 0.96: "prefill 512 decode", 0.1: ""} {
		var got []string
		for _, r := range c.Below(share) {
			got = append(got, r.Name)
		}
		if s := strings.Join(got, " "); s != below {
			t.Errorf("below %v: %s, want %s", share, s, below)
		}
	}
}

// Whatever is in the file, it is read as a report or refused.
func TestReadRefuses(t *testing.T) {
	good := func() *Report {
		return reportOf(row("decode", "tokens/s", []float64{100}), row("load", "ms", []float64{1}))
	}
	text := func(change func(r *Report)) string {
		r := good()
		change(r)
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if _, err := Read(strings.NewReader(text(func(*Report) {}))); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ text, want string }{
		"empty":          {"", "unexpected end"},
		"no JSON":        {"decode 100", "invalid character"},
		"an array":       {"[]", "cannot unmarshal"},
		"null":           {"null", "bench_format"},
		"other JSON":     {`{"version": "1"}`, "bench_format is 0"},
		"trailing":       {text(func(*Report) {}) + "{}", "after top-level value"},
		"other format":   {text(func(r *Report) { r.Format = 2 }), "bench_format is 2"},
		"no rows":        {text(func(r *Report) { r.Rows = nil }), "0 results"},
		"many rows":      {text(func(r *Report) { r.Rows = make([]Row, maxReportRows+1) }), "1001 results"},
		"no name":        {text(func(r *Report) { r.Rows[0].Name = "" }), "the name"},
		"long name":      {text(func(r *Report) { r.Rows[0].Name = strings.Repeat("x", 201) }), "the name"},
		"other unit":     {text(func(r *Report) { r.Rows[0].Unit = "parsecs" }), "parsecs"},
		"zero":           {text(func(r *Report) { r.Rows[0].Median = 0 }), "0 tokens/s"},
		"negative":       {text(func(r *Report) { r.Rows[1].Max = -1 }), "-1 ms"},
		"too large":      {strings.Replace(text(func(*Report) {}), "100,", "1e999,", 1), "1e999"},
		"twice":          {text(func(r *Report) { r.Rows = append(r.Rows, r.Rows[0]) }), "twice"},
		"minute":         {text(func(r *Report) { r.Rows[1].Min = 1e-300 }), "1e-300 ms"},
		"wrong type":     {strings.Replace(text(func(*Report) {}), `"median":100`, `"median":"100"`, 1), "cannot unmarshal"},
		"wrong date":     {strings.Replace(text(func(*Report) {}), `"date":"2026`, `"date":"x2026`, 1), "parsing time"},
		"too many bytes": {strings.Repeat(" ", maxReportBytes+1), "more than"},
		"deep":           {`{"model":` + strings.Repeat("[", 20000), "depth"},
	} {
		if _, err := Read(strings.NewReader(c.text)); !errors.Is(err, ErrReport) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func FuzzRead(f *testing.F) {
	b, err := json.Marshal(reportOf(row("decode", "tokens/s", []float64{100}), row("load", "ms", []float64{1})))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(b))
	f.Add(`{"bench_format":1,"results":[{"name":"a","unit":"ms","median":1e-9,"min":1,"max":1e18}]}`)
	now := reportOf(row("decode", "tokens/s", []float64{90}), row("a", "ms", []float64{1e-3}))
	f.Fuzz(func(t *testing.T, text string) {
		old, err := Read(strings.NewReader(text))
		if err != nil {
			if !errors.Is(err, ErrReport) {
				t.Error(err)
			}
			return
		}
		c := now.Compare(old)
		if len(c.Rows) > 2 || len(c.Below(0.5)) > c.Rates() {
			t.Errorf("%+v", c)
		}
		if _, err := json.Marshal(c); err != nil {
			t.Error(err)
		}
	})
}
