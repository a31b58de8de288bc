package gguf

// Limits bounds what Parse accepts. A field that is zero has its default. Beyond
// a limit a file is refused with ErrFormat, before anything is allocated for what
// went beyond it.
type Limits struct {
	// HeaderBytes bounds the metadata and the tensor table together. Vocabularies
	// are what takes space: 262,144 tokens with scores, types and merges are
	// 16 MB. Default 48 MiB.
	HeaderBytes int64
	// KVs bounds the number of metadata entries; models have tens. Default 65,536.
	KVs uint64
	// Tensors bounds the number of tensors; models have hundreds. Default 65,536.
	Tensors uint64
	// KeyBytes bounds the length of a metadata key. Default 65,535, which is
	// GGUF's own limit.
	KeyBytes uint64
	// NameBytes bounds the length of a tensor's name. Default 64, which is GGUF's
	// own limit.
	NameBytes uint64
	// StringBytes bounds the length of one string value; chat templates have tens
	// of kilobytes, and some files carry a whole tokenizer.json. Default 32 MiB.
	StringBytes uint64
	// Strings bounds the number of strings in all arrays together; each costs 16
	// bytes beside its own once asked for. Default 2,097,152.
	Strings uint64
}

// maxAlignment bounds general.alignment; larger ones have no use and would let a
// small file claim a large one's padding.
const maxAlignment = 1 << 20

func (l Limits) withDefaults() Limits {
	for _, field := range []struct {
		value *uint64
		def   uint64
	}{
		{&l.KVs, 1 << 16},
		{&l.Tensors, 1 << 16},
		{&l.KeyBytes, 1<<16 - 1},
		{&l.NameBytes, 64},
		{&l.StringBytes, 32 << 20},
		{&l.Strings, 1 << 21},
	} {
		if *field.value == 0 {
			*field.value = field.def
		}
	}
	if l.HeaderBytes <= 0 {
		l.HeaderBytes = 48 << 20
	}
	return l
}
