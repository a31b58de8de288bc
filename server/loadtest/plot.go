package loadtest

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// The sizes of a plot, in pixels.
const (
	plotWidth   = 760
	panelHeight = 300
	panelTop    = 64 // of the first one
	panelLeft   = 76
	panelRight  = plotWidth - 40
	panelGap    = 76 // between panels, for the axis below the upper one
	plotHeight  = panelTop + 2*panelHeight + panelGap + 56
)

// series is one line of a panel: a figure of each run.
type series struct {
	name, colour string
	of           func(*Result) (float64, bool) // false: this run has none
}

func percentiles(of func(*Result) *Latency) []series {
	line := func(name, colour string, get func(*Latency) float64) series {
		return series{name, colour, func(r *Result) (float64, bool) {
			l := of(r)
			return get(l), l.Count > 0
		}}
	}
	return []series{
		line("p99", "#c0392b", func(l *Latency) float64 { return l.P99 }),
		line("p50", "#1f6fb2", func(l *Latency) float64 { return l.P50 }),
	}
}

// Plot writes the runs as an SVG picture: what clients wait for over what they get,
// a point for each run, once for the first token and once for the gaps after it.
func (r *Report) Plot(out io.Writer) error {
	var p plotter
	p.write(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" fill="#222">`,
		plotWidth, plotHeight, plotWidth, plotHeight)
	p.write(`<rect width="%d" height="%d" fill="#fff"/>`, plotWidth, plotHeight)
	p.text(panelLeft, 24, `font-size="15"`, "%s on %s", r.Server.Model, r.Server.Device)
	labels := "points: streams at a time"
	if len(r.Results) > 0 && r.Results[0].Rate > 0 {
		labels = "points: requests a second"
	}
	p.text(panelLeft, 42, `fill="#666"`, "prompts of %s tokens, %s to generate; %s", r.Load.Prompt, r.Load.MaxTokens, labels)
	p.panel(panelTop, "time to first token, ms", r.Results, percentiles(func(r *Result) *Latency { return &r.FirstToken }))
	p.panel(panelTop+panelHeight+panelGap, "time between tokens, ms", r.Results, percentiles(func(r *Result) *Latency { return &r.Gap }))
	p.write("</svg>")
	_, err := io.WriteString(out, p.b.String())
	return err
}

type plotter struct{ b strings.Builder }

func (p *plotter) write(format string, args ...any) {
	fmt.Fprintf(&p.b, format+"\n", args...)
}

// text writes words at a place; attributes are further ones of the element.
func (p *plotter) text(x, y float64, attributes, format string, args ...any) {
	var escaped strings.Builder
	_ = xml.EscapeText(&escaped, []byte(fmt.Sprintf(format, args...))) // a Builder takes everything
	p.write(`<text x="%.1f" y="%.1f" %s>%s</text>`, x, y, attributes, escaped.String())
}

// panel draws one diagram, its upper edge at top.
func (p *plotter) panel(top float64, title string, runs []Result, lines []series) {
	const left, right, width, height = panelLeft, panelRight, panelRight - panelLeft, panelHeight
	bottom := top + height
	var xs, ys []float64
	for i := range runs {
		for _, s := range lines {
			if y, ok := s.of(&runs[i]); ok {
				xs, ys = append(xs, runs[i].TokensPerSecond), append(ys, y)
			}
		}
	}
	x, y := newAxis(xs, false), newAxis(ys, true)
	for _, v := range y.ticks {
		at := bottom - y.place(v)*height
		p.write(`<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#ddd"/>`, left, at, right, at)
		p.text(left-8, at+4, `text-anchor="end"`, "%s", tick(v))
	}
	for _, v := range x.ticks {
		at := left + x.place(v)*width
		p.write(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#ddd"/>`, at, top, at, bottom)
		p.text(at, bottom+18, `text-anchor="middle"`, "%s", tick(v))
	}
	p.write(`<rect x="%d" y="%.1f" width="%d" height="%d" fill="none" stroke="#888"/>`, left, top, width, height)
	p.text((left+right)/2, bottom+38, `text-anchor="middle"`, "generated tokens/s, all streams together")
	p.text(0, 0, fmt.Sprintf(`text-anchor="middle" transform="translate(18 %.1f) rotate(-90)"`, top+height/2), "%s", title)
	for i, s := range lines {
		p.line(runs, s, func(v, w float64) (float64, float64) { return left + x.place(v)*width, bottom - y.place(w)*height }, i == 0)
		at := top + 18 + 18*float64(i)
		p.write(`<circle cx="%d" cy="%.1f" r="4" fill="%s"/>`, left+16, at-4, s.colour)
		p.text(left+26, at, "", "%s", s.name)
	}
	if len(xs) == 0 {
		p.text((left+right)/2, top+height/2, `text-anchor="middle" fill="#666"`, "nothing was measured")
	}
}

// line draws a series; labelled, each point has its run's load beside it.
func (p *plotter) line(runs []Result, s series, place func(x, y float64) (float64, float64), labelled bool) {
	var path, points plotter
	for i := range runs {
		v, ok := s.of(&runs[i])
		if !ok {
			continue
		}
		x, y := place(runs[i].TokensPerSecond, v)
		command := "L"
		if path.b.Len() == 0 {
			command = "M"
		}
		fmt.Fprintf(&path.b, "%s%.1f %.1f", command, x, y)
		points.write(`<circle cx="%.1f" cy="%.1f" r="4" fill="%s"/>`, x, y, s.colour)
		if labelled {
			points.text(x, y-9, `text-anchor="middle" font-weight="bold" stroke="#fff" stroke-width="3" paint-order="stroke"`, "%s", pointName(&runs[i]))
		}
	}
	if path.b.Len() > 0 {
		p.write(`<path d="%s" fill="none" stroke="%s" stroke-width="1.5"/>`, path.b.String(), s.colour)
		p.b.WriteString(points.b.String())
	}
}

func pointName(r *Result) string {
	if r.Streams > 0 {
		return strconv.Itoa(r.Streams)
	}
	return r.Load()
}

// axis maps values to 0 (its beginning) to 1 (its end).
type axis struct {
	from, to    float64
	logarithmic bool
	ticks       []float64
}

// newAxis makes an axis that holds all values, from 0 on, with some room beyond. If
// they may be, steps are logarithmic where values lie far apart.
func newAxis(values []float64, mayBeLogarithmic bool) axis {
	least, most := math.Inf(1), 0.0
	for _, v := range values {
		least, most = min(least, v), max(most, v)
	}
	if !(most > 0) || math.IsInf(most, 1) {
		most = 1
	}
	if mayBeLogarithmic && least > 0 && most/least > 20 {
		a := axis{logarithmic: true, from: least / 1.5, to: most * 1.5}
		for decade := math.Floor(math.Log10(a.from)); ; decade++ {
			for _, digit := range []float64{1, 2, 5} {
				v := digit * math.Pow(10, decade)
				if v > a.to {
					return a
				}
				if v >= a.from {
					a.ticks = append(a.ticks, v)
				}
			}
		}
	}
	a := axis{to: most * 1.15}
	step := math.Pow(10, math.Floor(math.Log10(most)))
	for _, part := range []float64{0.1, 0.2, 0.5} {
		if a.to/(step*part) <= 8 {
			step *= part
			break
		}
	}
	for i := 0; float64(i)*step <= a.to; i++ {
		a.ticks = append(a.ticks, float64(i)*step)
	}
	return a
}

func (a *axis) place(v float64) float64 {
	if a.logarithmic {
		return math.Log(v/a.from) / math.Log(a.to/a.from)
	}
	return (v - a.from) / (a.to - a.from)
}

// tick is a number at an axis, without the noise of binary fractions.
func tick(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }
