package loadtest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
)

// The bounds of a distribution.
const (
	maxLength      = 1 << 20
	maxLengthParts = 32
)

// Lengths is a distribution of lengths in tokens, written as "128", as "64-512",
// which is every length of that range alike, or as several of these with weights:
// "100:0.9,2000:0.1". The zero value has no lengths and is not to be drawn from.
type Lengths struct {
	parts []lengthPart
	text  string
}

// lengthPart is a range of lengths, both ends included. below is the share of the
// weights of this part and of those before it.
type lengthPart struct {
	from, to int
	below    float64
}

// ParseLengths reads what a Lengths is written as.
func ParseLengths(text string) (Lengths, error) {
	items := strings.Split(text, ",")
	if len(items) > maxLengthParts {
		return Lengths{}, fmt.Errorf("%d lengths, at most %d", len(items), maxLengthParts)
	}
	l := Lengths{text: text}
	sum := 0.0
	for _, item := range items {
		lengths, weight, weighted := strings.Cut(item, ":")
		w := 1.0
		if weighted {
			var err error
			if w, err = strconv.ParseFloat(weight, 64); err != nil || !(w > 0) || w > 1e9 || w < 1e-9 {
				return Lengths{}, fmt.Errorf("%.40q: the weight is to be a positive number", item)
			}
		}
		first, last, ranged := strings.Cut(lengths, "-")
		from, err := parseLength(first)
		to := from
		if err == nil && ranged {
			to, err = parseLength(last)
		}
		if err != nil {
			return Lengths{}, fmt.Errorf("%.40q: %w", item, err)
		}
		if to < from {
			return Lengths{}, fmt.Errorf("%.40q: the range ends before it begins", item)
		}
		sum += w
		l.parts = append(l.parts, lengthPart{from, to, sum})
	}
	for i := range l.parts {
		l.parts[i].below /= sum
	}
	l.parts[len(l.parts)-1].below = math.Inf(1) // whatever rounding has done
	return l, nil
}

func parseLength(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > maxLength {
		return 0, fmt.Errorf("a length is a number from 1 to %d", maxLength)
	}
	return n, nil
}

// String is what ParseLengths has read.
func (l Lengths) String() string { return l.text }

// Set parses in place, for flags.
func (l *Lengths) Set(text string) error {
	parsed, err := ParseLengths(text)
	if err == nil {
		*l = parsed
	}
	return err
}

// Type names the kind of value in the help of flags.
func (l *Lengths) Type() string { return "tokens" }

// Min is the shortest length that there is; 0 of the zero value.
func (l Lengths) Min() int {
	least := 0
	for i, p := range l.parts {
		if i == 0 || p.from < least {
			least = p.from
		}
	}
	return least
}

// Max is the longest one.
func (l Lengths) Max() int {
	most := 0
	for _, p := range l.parts {
		most = max(most, p.to)
	}
	return most
}

func (l Lengths) draw(r *rand.Rand) int {
	at := r.Float64()
	for _, p := range l.parts {
		if at < p.below {
			return p.from + r.IntN(p.to-p.from+1)
		}
	}
	return l.parts[len(l.parts)-1].to // not reached: the last part is below infinity
}
