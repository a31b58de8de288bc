package tokenizer

import "slices"

// endTexts are texts of control tokens after which a model has nothing more to
// say, over the families of models. Files often name only one of theirs as
// eos_token_id. A token of another type with such a text is text (</s> closes
// an element in HTML).
var endTexts = []string{
	"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "<｜end▁of▁sentence｜>",
	"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<turn|>",
	"<EOT>", "_<EOT>", "[EOT]", "<end_of_utterance>", "<|return|>", "<|call|>",
	// Fill-in-the-middle: padding, and the start of another repository or file.
	"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]",
	"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>",
}

// endsOfGeneration lists the tokens at which a generation ends, in rising
// order without repetition.
func endsOfGeneration(v *Vocabulary) []int32 {
	var ids []int32
	for _, id := range append([]*int32{v.EOS, v.EOT, v.EOM}, v.EndsOfFile...) {
		if id != nil {
			ids = append(ids, *id)
		}
	}
	named := make(map[string]int32)
	for id, typ := range v.Types {
		if typ == Control && slices.Contains(endTexts, v.Tokens[id]) {
			named[v.Tokens[id]] = int32(id)
		}
	}
	// Where a message ends with <|end|> and a turn with <|return|> or
	// <|call|> (gpt-oss), <|end|> is only the end of one of several messages.
	_, hasReturn := named["<|return|>"]
	_, hasCall := named["<|call|>"]
	for text, id := range named {
		if text == "<|end|>" && hasReturn && hasCall {
			continue
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}
