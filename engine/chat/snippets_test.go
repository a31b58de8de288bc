package chat

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestSnippets compares small templates with jinja2: every filter, test,
// method and statement, white space, scopes, and what must fail.
func TestSnippets(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "snippets.json"))
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Messages []Message
		Cases    []struct {
			Source      string
			Text, Error *string
		}
	}
	if err := json.Unmarshal(data, &golden); err != nil {
		t.Fatal(err)
	}
	if len(golden.Cases) < 350 {
		t.Fatalf("only %d cases", len(golden.Cases))
	}
	for _, c := range golden.Cases {
		got, err := "", error(nil)
		tmpl, err := Parse(c.Source)
		if err == nil {
			got, err = tmpl.Render(Input{Messages: golden.Messages, AddGenerationPrompt: true, BOS: "<s>", EOS: "</s>"})
		}
		switch {
		case c.Error != nil && err == nil:
			t.Errorf("%s\n got %q\nwant an error like %s", c.Source, got, *c.Error)
		case c.Error != nil && !errors.Is(err, ErrTemplate):
			t.Errorf("%s: an error of no kind: %v", c.Source, err)
		case c.Error == nil && err != nil:
			t.Errorf("%s\n got %v\nwant %q", c.Source, err, *c.Text)
		case c.Error == nil && got != *c.Text:
			t.Errorf("%s\n got %q\nwant %q", c.Source, got, *c.Text)
		}
	}
}
