package tokenizer

import (
	"fmt"
	"slices"
	"sync"
)

// Tokenizer is a vocabulary that is ready for use.
type Tokenizer struct {
	name     string
	types    []TokenType // nil if all are normal
	pieces   []byte      // the bytes of all tokens, one after the other
	ends     []uint32    // where each token's bytes end in pieces
	model    textModel
	plain    *trie // tokens to look for in any text
	special  *trie // those and the ones to look for on request
	eog      []int32
	bos, eos int32 // -1 if there is none
	addBOS   bool
	addEOS   bool
}

// textModel turns text between special tokens into ids: byte-level BPE is one,
// SentencePiece's models would be others.
type textModel interface {
	appendText(dst []int32, text []byte) []int32
	// unencodable gives the offset of the first byte that appendText would
	// leave out, -1 if there is none.
	unencodable(text []byte) int
}

// EncodeOptions say what Encode does beyond the text's own tokens.
type EncodeOptions struct {
	AddSpecial   bool // add BOS and EOS as the file says
	ParseSpecial bool // recognise special tokens that are written out in the text
}

// New checks v and builds its tables. The Tokenizer keeps v's texts.
func New(v Vocabulary) (*Tokenizer, error) {
	if v.Model != "gpt2" {
		return nil, fmt.Errorf("%w: model %s", ErrUnsupported, quote(v.Model))
	}
	pre, err := findPreTokenizer(v.Pre)
	if err != nil {
		return nil, err
	}
	if err := v.check(); err != nil {
		return nil, err
	}
	t := &Tokenizer{
		name: v.Model + "/" + v.Pre, types: v.Types,
		plain: newTrie(), special: newTrie(),
		bos: orNone(v.BOS), eos: orNone(v.EOS),
		addBOS: pre.addBOS && v.BOS != nil,
	}
	var pieces sync.WaitGroup
	pieces.Go(func() { t.setPieces(v.Tokens) })
	model, err := newByteLevel(&v, pre)
	pieces.Wait()
	if err != nil {
		return nil, err
	}
	t.model = model
	if v.AddBOS != nil {
		t.addBOS = *v.AddBOS
	}
	if v.AddEOS != nil {
		t.addEOS = *v.AddEOS
	}
	for id, typ := range v.Types {
		switch typ {
		case UserDefined:
			t.plain.add(v.Tokens[id], int32(id))
			t.special.add(v.Tokens[id], int32(id))
		case Control, Unknown:
			t.special.add(v.Tokens[id], int32(id))
		}
	}
	t.eog = endsOfGeneration(&v)
	return t, nil
}

func orNone(id *int32) int32 {
	if id == nil {
		return -1
	}
	return *id
}

// setPieces stores the bytes of every token.
func (t *Tokenizer) setPieces(texts []string) {
	total := 0
	for _, text := range texts {
		total += len(text)
	}
	t.pieces = make([]byte, 0, total) // a token's bytes are never more than its text
	t.ends = make([]uint32, len(texts))
	for id, text := range texts {
		switch t.typeOf(int32(id)) {
		case Normal:
			t.pieces = appendBytes(t.pieces, text)
		case Unused:
		default:
			t.pieces = append(t.pieces, text...)
		}
		t.ends[id] = uint32(len(t.pieces))
	}
}

func (t *Tokenizer) typeOf(id int32) TokenType {
	if t.types == nil {
		return Normal
	}
	return t.types[id]
}

// Name gives the model and the pre-tokenizer: "gpt2/qwen2".
func (t *Tokenizer) Name() string { return t.name }

// VocabSize is the number of tokens; ids run from 0 up to it.
func (t *Tokenizer) VocabSize() int { return len(t.ends) }

// BOS gives the token that begins a text, if there is one.
func (t *Tokenizer) BOS() (int32, bool) { return t.bos, t.bos >= 0 }

// AddsBOS says whether the file wants texts to begin with BOS; there is one then.
func (t *Tokenizer) AddsBOS() bool { return t.addBOS }

// EOS gives the token that ends a text, if there is one.
func (t *Tokenizer) EOS() (int32, bool) { return t.eos, t.eos >= 0 }

// EOG lists the tokens that end a generation (see [Tokenizer.IsEOG]) in rising
// order. The slice is the caller's.
func (t *Tokenizer) EOG() []int32 { return slices.Clone(t.eog) }

// IsEOG reports whether a generation ends at this token: the file's eos, eot
// and eom tokens, fill-in-the-middle padding, repository and file separators,
// and control tokens with a text that is known to end a turn (<|im_end|>,
// <|endoftext|>, <|eot_id|> and so on).
func (t *Tokenizer) IsEOG(id int32) bool { return slices.Contains(t.eog, id) }

// Encode gives the tokens of text, which need not be valid UTF-8. User-defined
// tokens are always recognised in it, control tokens only with ParseSpecial;
// at each place the longest one counts. The slice is the caller's.
func (t *Tokenizer) Encode(text []byte, opt EncodeOptions) []int32 {
	dst := make([]int32, 0, len(text)/3+8)
	if opt.AddSpecial && t.addBOS {
		dst = append(dst, t.bos)
	}
	find := t.plain
	if opt.ParseSpecial {
		find = t.special
	}
	for len(text) > 0 {
		at, id, size := find.find(text)
		if at > 0 {
			dst = t.model.appendText(dst, text[:at])
		}
		if size > 0 {
			dst = append(dst, id)
		}
		text = text[at+size:]
	}
	if opt.AddSpecial && t.addEOS {
		dst = append(dst, t.eos)
	}
	return dst
}

// FirstUnencodable gives the offset of the first byte of text that Encode
// leaves out because no token stands for it, -1 if there is none. It can
// happen with vocabularies that were trained without all 256 bytes, for
// control characters and bytes that valid UTF-8 does not contain.
func (t *Tokenizer) FirstUnencodable(text []byte) int { return t.model.unencodable(text) }

// AppendPiece appends the bytes of one token, which may be part of a rune.
// Control tokens have none unless special is set; an id outside the vocabulary
// has none either.
func (t *Tokenizer) AppendPiece(dst []byte, id int32, special bool) []byte {
	if id < 0 || int(id) >= len(t.ends) {
		return dst
	}
	if typ := t.typeOf(id); !special && (typ == Control || typ == Unknown) {
		return dst
	}
	start := uint32(0)
	if id > 0 {
		start = t.ends[id-1]
	}
	return append(dst, t.pieces[start:t.ends[id]]...)
}

// Decode gives the bytes of the tokens, which are those of valid UTF-8 only if
// the tokens end with a whole rune. ErrToken names an id that is not in the
// vocabulary.
func (t *Tokenizer) Decode(ids []int32, special bool) ([]byte, error) {
	var dst []byte
	for i, id := range ids {
		if id < 0 || int(id) >= len(t.ends) {
			return nil, fmt.Errorf("%w: id %d at index %d; the vocabulary has %d", ErrToken, id, i, len(t.ends))
		}
		dst = t.AppendPiece(dst, id, special)
	}
	return dst, nil
}

// byteLevel is the textModel of byte-level BPE.
type byteLevel struct {
	bpe
	pre   *preTokenizer
	types []TokenType
	index *index // for whole words; nil unless the pre-tokenizer ignores merges
}

func newByteLevel(v *Vocabulary, pre *preTokenizer) (*byteLevel, error) {
	index, err := newIndex(v.Tokens)
	if err != nil {
		return nil, err
	}
	m := &byteLevel{pre: pre, types: v.Types}
	if pre.ignoreMerges {
		m.index = index
	}
	if m.merges, err = newMerges(v.Merges, index); err != nil {
		return nil, err
	}
	for b := range m.byteID {
		m.byteID[b] = -1
		if id, ok := index.find(letters[b]); ok && v.typeOf(id) == Normal {
			m.byteID[b] = id
		}
	}
	return m, nil
}

func (m *byteLevel) appendText(dst []int32, text []byte) []int32 {
	return m.appendWords(dst, text, &merger{})
}

func (m *byteLevel) appendWords(dst []int32, text []byte, work *merger) []int32 {
	var written []byte
	for len(text) > 0 {
		n := m.pre.word(m.pre, text)
		word := text[:n]
		text = text[n:]
		if m.pre.ignoreMerges {
			written = appendLetters(written[:0], word)
			// Control tokens are not text, whatever they are called.
			if id, ok := m.index.findBytes(written); ok && (m.types == nil || m.types[id] == Normal) {
				dst = append(dst, id)
				continue
			}
		}
		dst = m.append(dst, word, work)
	}
	return dst
}

func (m *byteLevel) unencodable(text []byte) int {
	for i, b := range text {
		if m.byteID[b] < 0 {
			return i
		}
	}
	return -1
}
