// Package stop finds stop strings in text that arrives piece by piece.
package stop

import (
	"errors"
	"fmt"
)

// ErrEmpty reports a stop string without text, which would match everywhere.
var ErrEmpty = errors.New("empty stop string")

// Matcher lets text through up to the first stop string and never lets out any
// part of one: text that a stop string could begin with is held back until it
// is decided. The first match is the one that ends first; of several that end
// at the same byte, the longest.
//
// If the stop strings and the pieces are valid UTF-8, so is what is let
// through. The time is linear in the text (Aho and Corasick, 1975). Not for
// concurrent use.
type Matcher struct {
	nodes []node
	edges map[edge]int32
	sizes []int // length of each stop string

	at   int32  // the longest beginning of a stop string that the text ends with
	held []byte // that beginning: the end of the text, not yet let through
	stop int    // which stop string was found; -1 before
}

// node stands for a beginning of a stop string.
type node struct {
	fail  int32 // the longest shorter beginning that this one ends with
	depth int32 // its length in bytes
	match int32 // the longest stop string that this one ends with, -1 if none
}

type edge struct {
	from int32
	b    byte
}

// New prepares for some stop strings; there may be none.
func New(stops []string) (*Matcher, error) {
	m := &Matcher{nodes: []node{{match: -1}}, edges: map[edge]int32{}, stop: -1}
	var order []edge // edges by rising depth of their ends, for the second pass
	for i, s := range stops {
		if s == "" {
			return nil, fmt.Errorf("%w at index %d", ErrEmpty, i)
		}
		m.sizes = append(m.sizes, len(s))
		at := int32(0)
		for j := range len(s) {
			e := edge{at, s[j]}
			next, ok := m.edges[e]
			if !ok {
				next = int32(len(m.nodes))
				m.nodes = append(m.nodes, node{depth: int32(j + 1), match: -1})
				m.edges[e] = next
				order = append(order, e)
			}
			at = next
		}
		if m.nodes[at].match < 0 { // of equal stop strings, the first
			m.nodes[at].match = int32(i)
		}
	}
	byDepth(order, m.nodes, m.edges)
	for _, e := range order {
		n := &m.nodes[m.edges[e]]
		if e.from != 0 {
			n.fail = m.step(m.nodes[e.from].fail, e.b)
		}
		if n.match < 0 {
			n.match = m.nodes[n.fail].match
		}
	}
	return m, nil
}

// byDepth sorts edges by the depth of their ends (counting sort).
func byDepth(order []edge, nodes []node, edges map[edge]int32) {
	var levels [][]edge
	for _, e := range order {
		d := int(nodes[edges[e]].depth)
		for len(levels) <= d {
			levels = append(levels, nil)
		}
		levels[d] = append(levels[d], e)
	}
	order = order[:0]
	for _, level := range levels {
		order = append(order, level...)
	}
}

// step follows one byte from a node.
func (m *Matcher) step(at int32, b byte) int32 {
	for {
		if next, ok := m.edges[edge{at, b}]; ok {
			return next
		}
		if at == 0 {
			return 0
		}
		at = m.nodes[at].fail
	}
}

// Push adds text and gives what can be let through. When a stop string is
// complete, stopped is true, which is its index, and emit is the last text
// there is; later calls give nothing more.
func (m *Matcher) Push(text string) (emit string, stopped bool, which int) {
	if m.stop >= 0 {
		return "", true, m.stop
	}
	if len(m.nodes) == 1 {
		return text, false, -1
	}
	before := len(m.held)
	m.held = append(m.held, text...)
	for i := range len(text) {
		m.at = m.step(m.at, text[i])
		if s := m.nodes[m.at].match; s >= 0 {
			m.stop = int(s)
			emit = string(m.held[:before+i+1-m.sizes[s]])
			m.held = nil
			return emit, true, m.stop
		}
	}
	through := len(m.held) - int(m.nodes[m.at].depth)
	emit = string(m.held[:through])
	m.held = append(m.held[:0], m.held[through:]...)
	return emit, false, -1
}

// Flush gives the text that was held back, at the end of a text without a stop
// string, and makes the Matcher ready for another text.
func (m *Matcher) Flush() string {
	text := string(m.held)
	m.held, m.at, m.stop = m.held[:0], 0, -1
	return text
}
