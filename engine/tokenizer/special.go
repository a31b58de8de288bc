package tokenizer

// trie finds tokens that are looked for in raw text, the longest at a
// position. A search from one position takes at most maxSpecialBytes steps, and
// ends at the first byte nearly always.
type trie struct {
	starts [256]bool // bytes with which some token starts
	next   map[trieEdge]int32
	ids    []int32 // token that ends at a node; -1 if none does
}

type trieEdge struct {
	node int32
	b    byte
}

func newTrie() *trie {
	return &trie{next: map[trieEdge]int32{}, ids: []int32{-1}}
}

func (t *trie) add(text string, id int32) {
	if text == "" {
		return
	}
	t.starts[text[0]] = true
	node := int32(0)
	for i := range len(text) {
		e := trieEdge{node, text[i]}
		child, ok := t.next[e]
		if !ok {
			child = int32(len(t.ids))
			t.ids = append(t.ids, -1)
			t.next[e] = child
		}
		node = child
	}
	t.ids[node] = id
}

// longest gives the longest token that text starts with, and its length.
func (t *trie) longest(text []byte) (id int32, size int) {
	id = -1
	node, ok := int32(0), false
	for i, b := range text {
		if node, ok = t.next[trieEdge{node, b}]; !ok {
			break
		}
		if t.ids[node] >= 0 {
			id, size = t.ids[node], i+1
		}
	}
	return id, size
}

// find gives the first place in text where a token is, with the longest token
// there; at is len(text) if there is none.
func (t *trie) find(text []byte) (at int, id int32, size int) {
	if len(t.ids) > 1 {
		for i, b := range text {
			if t.starts[b] {
				if id, size := t.longest(text[i:]); id >= 0 {
					return i, id, size
				}
			}
		}
	}
	return len(text), -1, 0
}
