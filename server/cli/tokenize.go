package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/spf13/cobra"

	"kigo/engine/tokenizer"
)

// maxInput bounds what a command reads from standard input, in bytes.
const maxInput = 1 << 28

func (a *app) tokenizeCommand() *cobra.Command {
	var (
		model  string
		opt    tokenizer.EncodeOptions
		decode bool
	)
	cmd := &cobra.Command{
		Use:   "tokenize --model FILE",
		Short: "Turn text into token ids, or back",
		Long: `Turns the bytes of standard input into token ids, printed as a JSON array, with
the tokenizer of a GGUF file. Every byte counts, a final newline as well. A file
that holds a vocabulary and no weights will do, whatever its architecture.`,
		Example: `  printf 'Hello world' | kigo tokenize --model model.gguf
  printf '[19556, 905]' | kigo tokenize --model model.gguf --decode`,
		Args: exactArgs(),
		RunE: func(*cobra.Command, []string) error {
			if model == "" {
				return usagef("--model is missing: the GGUF file whose tokenizer to use")
			}
			if decode && (opt.AddSpecial || opt.ParseSpecial) {
				return usagef("--add-special and --parse-special have no meaning with --decode")
			}
			f, header, err := parseModel(model)
			if err != nil {
				return err
			}
			defer f.Close()
			t, err := tokenizer.FromGGUF(header)
			if err != nil {
				return fmt.Errorf("%s: %w", model, err)
			}
			input, err := readAll(a.stdin, maxInput)
			if err != nil {
				return err
			}
			if decode {
				return a.decode(t, input)
			}
			return a.encode(t, input, opt)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&model, "model", "", "GGUF `file` whose tokenizer to use")
	flags.BoolVar(&opt.AddSpecial, "add-special", false, "add the begin and end tokens as the model says")
	flags.BoolVar(&opt.ParseSpecial, "parse-special", false, "recognise special tokens written out in the text")
	flags.BoolVar(&decode, "decode", false, "read a JSON array of ids, write the text's bytes")
	return cmd
}

func (a *app) encode(t *tokenizer.Tokenizer, text []byte, opt tokenizer.EncodeOptions) error {
	ids := t.Encode(text, opt)
	line := append(make([]byte, 0, 8*len(ids)+3), '[')
	for i, id := range ids {
		if i > 0 {
			line = append(line, ", "...)
		}
		line = strconv.AppendInt(line, int64(id), 10)
	}
	_, err := a.stdout.Write(append(line, "]\n"...))
	return err
}

func (a *app) decode(t *tokenizer.Tokenizer, input []byte) error {
	ids, err := parseIDs(input)
	if err != nil {
		return err
	}
	text, err := t.Decode(ids, true)
	if err != nil {
		return err
	}
	return newTextWriter(a.stdout).Text(string(text))
}

// parseIDs reads a JSON array of token ids.
func parseIDs(input []byte) ([]int32, error) {
	var numbers []json.Number
	if err := json.Unmarshal(input, &numbers); err != nil {
		return nil, fmt.Errorf("standard input is not a JSON array of token ids: %w", err)
	}
	ids := make([]int32, len(numbers))
	for i, n := range numbers {
		id, err := strconv.ParseInt(n.String(), 10, 32)
		switch {
		case errors.Is(err, strconv.ErrRange) || err == nil && id < 0:
			return nil, fmt.Errorf("element %d is %s; ids are 0 to %d", i, n, math.MaxInt32)
		case err != nil:
			return nil, fmt.Errorf("element %d is %q, not a token id", i, n.String())
		}
		ids[i] = int32(id)
	}
	return ids, nil
}

// readAll reads everything, up to a limit in bytes.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading standard input: %w", err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("standard input has more than %s", formatBytes(uint64(limit)))
	}
	return b, nil
}
