package bench

import (
	"slices"
	"strings"
	"time"
)

// reportFormat is the version of the report as JSON. A change that an old reader
// would misread takes the next number.
const reportFormat = 1

// Report is what Run measured.
type Report struct {
	Format   int       `json:"bench_format"`
	Version  string    `json:"kigo_version"`
	Date     time.Time `json:"date"`
	Model    Model     `json:"model"`
	Device   Device    `json:"device"`
	Rates    *Rates    `json:"rates,omitempty"` // nil: not measured, see Notes
	Runs     int       `json:"runs"`            // that were asked for
	Rows     []Row     `json:"results"`
	Profiles []Profile `json:"profile,omitempty"`
	Notes    []string  `json:"notes,omitempty"` // what was left out, and why
}

// Model is what was measured.
type Model struct {
	Name       string `json:"name"` // as the file says
	Formats    string `json:"formats"`
	Parameters uint64 `json:"parameters"`
	Bytes      uint64 `json:"bytes"` // of all tensors
	Context    int    `json:"context"`
}

// Device is what it was measured on.
type Device struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Driver  string `json:"driver,omitempty"`
	Threads int    `json:"threads,omitempty"`
}

// Row is one measurement, in Unit: "ms", or a rate like "tokens/s", of which more
// is better.
type Row struct {
	Name   string  `json:"name"`
	Unit   string  `json:"unit"`
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	Runs   int     `json:"runs"` // that the figures are of

	// The most that the device can do, where that is known, the share of it that
	// the median is, and what the limit comes from: "bytes" over the copy rate,
	// "FLOPs" over the matrix rate, or "link", the upload rate.
	Limit float64 `json:"limit,omitempty"`
	Share float64 `json:"share,omitempty"`
	By    string  `json:"limited_by,omitempty"`
	Work  *Work   `json:"work,omitempty"` // that the limit counts, of one run
}

// IsRate says that more is better.
func (r *Row) IsRate() bool { return strings.HasSuffix(r.Unit, "/s") }

// Profile is what the kinds of operators cost in one step.
type Profile struct {
	Step  string `json:"step"` // "decode at context 4096"
	Rows  int    `json:"rows"`
	Start int    `json:"start"` // tokens before them
	Parts []Part `json:"parts"`
}

// Part is one kind of operator. Times are in microseconds.
type Part struct {
	Name  string  `json:"name"`
	Count int     `json:"count"` // in the step
	Each  float64 `json:"each_us"`
	All   float64 `json:"all_us"`

	Limit float64 `json:"limit_us,omitempty"` // least time for all of them
	Share float64 `json:"share,omitempty"`    // Limit / All
	By    string  `json:"limited_by,omitempty"`
	Work  Work    `json:"work"` // of all of them
}

// row sums measurements up.
func row(name, unit string, values []float64) Row {
	values = slices.Sorted(slices.Values(values))
	return Row{
		Name: name, Unit: unit, Runs: len(values),
		Median: median(values), Min: values[0], Max: values[len(values)-1],
	}
}

// median of values in order: of an even number, between the two in the middle.
func median(values []float64) float64 {
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// limited adds a limit to a row.
func (r Row) limited(limit float64, by string, w *Work) Row {
	if limit > 0 {
		r.Limit, r.Share, r.By, r.Work = limit, r.Median/limit, by, w
	}
	return r
}
