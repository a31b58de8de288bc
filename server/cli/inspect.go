package cli

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"kigo/engine/chat"
	"kigo/engine/gguf"
	"kigo/engine/tokenizer"
)

func (a *app) inspectCommand() *cobra.Command {
	var asJSON, all bool
	cmd := &cobra.Command{
		Use:   "inspect FILE",
		Short: "Show what a GGUF file holds",
		Long: `Shows the metadata and the tensors of a GGUF file, and what Kigo finds odd in it.
Long arrays and texts are shortened unless --all is given. What the file says is
written with control characters escaped, so that it cannot command the terminal.`,
		Example: `  kigo inspect model.gguf
  kigo inspect model.gguf --json | jq '.tensors[0]'`,
		Args: exactArgs("the file to inspect"),
		RunE: func(_ *cobra.Command, args []string) error {
			f, header, err := parseModel(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			r := inspection(args[0], header, all)
			if asJSON {
				return a.printJSON(r)
			}
			return r.writeText(a.stdout)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&all, "all", false, "do not shorten arrays and texts")
	return cmd
}

// report is what inspect shows; its JSON is the command's --json.
type report struct {
	File       string         `json:"file"`
	Version    uint32         `json:"version"`
	Size       int64          `json:"size"`
	Alignment  uint32         `json:"alignment"`
	DataOffset int64          `json:"data_offset"`
	Parameters uint64         `json:"parameters"`
	Metadata   []reportKV     `json:"metadata"`
	Formats    []reportFormat `json:"formats"`
	Tensors    []reportTensor `json:"tensors"`
	Warnings   []string       `json:"warnings"`
}

type reportKV struct {
	Key   string `json:"key"`
	Type  string `json:"type"` // "uint32", "string", "string[49152]"
	Value any    `json:"value"`
	// Shortened says that Value is only the beginning.
	Shortened bool `json:"shortened,omitempty"`
}

type reportFormat struct {
	Format  string `json:"format"`
	Tensors int    `json:"tensors"`
	Values  uint64 `json:"values"`
	Bytes   uint64 `json:"bytes"`
}

type reportTensor struct {
	Name   string   `json:"name"`
	Format string   `json:"format"`
	Dims   []uint64 `json:"dims"` // columns first
	Offset int64    `json:"offset"`
	Bytes  int64    `json:"bytes"`
}

// How much of an array and of a text is shown.
const (
	shortArray = 8
	shortText  = 200
)

func inspection(path string, f *gguf.File, all bool) *report {
	r := &report{
		File:       path,
		Version:    f.Version,
		Size:       f.Size,
		Alignment:  f.Alignment,
		DataOffset: f.DataOffset,
		Metadata:   make([]reportKV, 0, len(f.KVs)),
		Tensors:    make([]reportTensor, 0, len(f.Tensors)),
		Formats:    []reportFormat{},
		Warnings:   warnings(f),
	}
	for _, kv := range f.KVs {
		r.Metadata = append(r.Metadata, inspectValue(kv, all))
	}
	for _, t := range f.Tensors {
		r.Tensors = append(r.Tensors, reportTensor{t.Name, t.Type.String(), t.Dims, t.Offset, t.Size})
		r.Parameters += t.Elements()
		i := slices.IndexFunc(r.Formats, func(x reportFormat) bool { return x.Format == t.Type.String() })
		if i < 0 {
			i = len(r.Formats)
			r.Formats = append(r.Formats, reportFormat{Format: t.Type.String()})
		}
		r.Formats[i].Tensors++
		r.Formats[i].Values += t.Elements()
		r.Formats[i].Bytes += uint64(t.Size)
	}
	slices.SortStableFunc(r.Formats, func(x, y reportFormat) int { return cmp.Compare(y.Bytes, x.Bytes) })
	return r
}

// inspectValue turns a metadata value into something that JSON can hold.
func inspectValue(kv gguf.KV, all bool) reportKV {
	r := reportKV{Key: kv.Key, Type: kv.Value.Type().String()}
	elem, ok := kv.Value.Elem()
	if !ok {
		r.Value, r.Shortened = jsonValue(kv.Value.Any(), all)
		return r
	}
	r.Type = fmt.Sprintf("%s[%d]", elem, kv.Value.Len())
	array := reflect.ValueOf(kv.Value.Any())
	n := array.Len()
	if !all && n > shortArray {
		n, r.Shortened = shortArray, true
	}
	values := make([]any, n)
	for i := range values {
		var shortened bool
		values[i], shortened = jsonValue(array.Index(i).Interface(), all)
		r.Shortened = r.Shortened || shortened
	}
	r.Value = values
	return r
}

// jsonValue shortens long texts, and turns numbers that JSON lacks into text.
func jsonValue(v any, all bool) (value any, shortened bool) {
	switch v := v.(type) {
	case float32:
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			return jsonNumber(f), false
		}
	case float64:
		return jsonNumber(v), false
	case string:
		if !all && len(v) > shortText {
			cut := shortText
			for cut > shortText-utf8.UTFMax && !utf8.RuneStart(v[cut]) {
				cut--
			}
			return v[:cut], true
		}
	}
	return v, false
}

// warnings says what will keep a file from being served, or look odd then.
func warnings(f *gguf.File) []string {
	w := []string{}
	if _, ok, err := f.String("general.architecture"); err != nil {
		w = append(w, err.Error())
	} else if !ok {
		w = append(w, "no general.architecture: nothing says how to run the model")
	}
	if _, err := tokenizer.FromGGUF(f); err != nil {
		w = append(w, "no usable tokenizer: "+err.Error())
	}
	if source, ok, err := f.String("tokenizer.chat_template"); err != nil {
		w = append(w, err.Error())
	} else if !ok {
		w = append(w, "no chat template: conversations cannot be rendered")
	} else if _, err := chat.Parse(source); err != nil {
		w = append(w, "no usable chat template: "+err.Error())
	}
	if len(f.Tensors) == 0 {
		w = append(w, "no tensors: the file holds a vocabulary only")
		return w
	}
	var end int64
	for _, t := range f.Tensors {
		end = max(end, t.Offset+t.Size)
	}
	if rest := f.Size - end; rest >= int64(f.Alignment) {
		w = append(w, fmt.Sprintf("%d bytes follow the last tensor", rest))
	}
	return w
}

func (r *report) writeText(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s\n", escapeControls(r.File))
	fmt.Fprintf(w, "GGUF version %d, %s, %d metadata entries, %d tensors, %s parameters\n",
		r.Version, formatBytes(uint64(r.Size)), len(r.Metadata), len(r.Tensors), formatCount(r.Parameters))

	fmt.Fprintf(w, "\nMetadata\n")
	for _, kv := range r.Metadata {
		fmt.Fprintf(w, "  %s\t%s\t%s\n", quoteBare(kv.Key), kv.Type, textValue(kv))
	}
	if len(r.Tensors) > 0 {
		fmt.Fprintf(w, "\nFormats\n")
		var bytes uint64
		for _, f := range r.Formats {
			bytes += f.Bytes
		}
		for _, f := range r.Formats {
			fmt.Fprintf(w, "  %s\t%d tensors\t%s values\t%s\t%.1f %%\n",
				f.Format, f.Tensors, formatCount(f.Values), formatBytes(f.Bytes), 100*float64(f.Bytes)/float64(max(bytes, 1)))
		}
		fmt.Fprintf(w, "\nTensors (columns first)\n")
		for _, t := range r.Tensors {
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\tat %d\n",
				quoteBare(t.Name), t.Format, strings.Trim(fmt.Sprint(t.Dims), "[]"), formatBytes(uint64(t.Bytes)), t.Offset)
		}
	}
	for _, warning := range r.Warnings {
		fmt.Fprintf(w, "\nWarning: %s\n", escapeControls(warning))
	}
	return w.Flush()
}

// textValue writes a value in one line.
func textValue(kv reportKV) string {
	var text string
	switch v := kv.Value.(type) {
	case []any:
		parts := make([]string, len(v))
		for i := range v {
			parts[i] = textScalar(v[i])
		}
		text = strings.Join(parts, ", ")
	default:
		text = textScalar(v)
	}
	if kv.Shortened {
		text += " …"
	}
	return text
}

func textScalar(v any) string {
	if s, ok := v.(string); ok {
		return strconv.Quote(s)
	}
	return fmt.Sprint(v)
}

// quoteBare leaves a plain name as it is and quotes any other.
func quoteBare(s string) string {
	if q := strconv.Quote(s); q[1:len(q)-1] != s || strings.ContainsAny(s, " \t") {
		return q
	}
	return s
}
