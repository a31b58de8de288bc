package chat

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// golden is engine/testdata/golden/chat.json; the README there describes it.
type golden struct {
	Templates     []struct{ Name, Source, BOS, EOS string }
	Conversations map[string][]Message
	Renders       []struct {
		Template, Conversation string
		AddGenerationPrompt    bool `json:"add_generation_prompt"`
		Text, Error            *string
	}
}

func readGolden(t testing.TB) golden {
	t.Helper()
	path := filepath.Join("..", "testdata", "golden", "chat.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(data, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestGolden compares with Python's jinja2.
func TestGolden(t *testing.T) {
	g := readGolden(t)
	if len(g.Templates) < 10 || len(g.Renders) < 300 {
		t.Fatalf("%d templates, %d renders", len(g.Templates), len(g.Renders))
	}
	templates := map[string]*Template{}
	input := map[string]Input{}
	for _, s := range g.Templates {
		tmpl, err := Parse(s.Source)
		if err != nil {
			t.Errorf("%s: %v", s.Name, err)
			continue
		}
		templates[s.Name], input[s.Name] = tmpl, Input{BOS: s.BOS, EOS: s.EOS}
	}
	for _, r := range g.Renders {
		tmpl := templates[r.Template]
		if tmpl == nil {
			continue
		}
		in := input[r.Template]
		in.Messages, in.AddGenerationPrompt = g.Conversations[r.Conversation], r.AddGenerationPrompt
		got, err := tmpl.Render(in)
		var raised *RaisedError
		switch {
		case r.Error == nil && err != nil:
			t.Errorf("%s, %s: %v", r.Template, r.Conversation, err)
		case r.Error == nil && got != *r.Text:
			t.Errorf("%s, %s:\n got %q\nwant %q", r.Template, r.Conversation, got, *r.Text)
		case r.Error != nil && (!errors.As(err, &raised) || raised.Message != *r.Error):
			t.Errorf("%s, %s: error %v, want %q", r.Template, r.Conversation, err, *r.Error)
		}
	}
}
