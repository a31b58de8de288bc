package sample

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	good := Defaults()
	if all := good.Validate(100); all != nil {
		t.Errorf("the defaults are refused: %v", all)
	}
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	bad := Params{
		Temperature: nan, TopK: -1, TypicalP: 0, TopP: 1.5, MinP: -0.1, RepetitionPenalty: 0,
		PresencePenalty: 2.5, FrequencyPenalty: -inf, PenaltyLastN: -2, MinTokens: -1,
		LogitBias: []Bias{{-1, 0}, {100, 0}, {5, nan}, {6, 101}, {5, 0}},
	}
	var fields []string
	for _, v := range bad.Validate(100) {
		fields = append(fields, v.Field)
		if v.Reason == "" {
			t.Errorf("%s has no reason", v.Field)
		}
	}
	want := []string{
		"temperature", "top_k", "typical_p", "top_p", "min_p", "repetition_penalty", "presence_penalty",
		"frequency_penalty", "penalty_last_n", "min_tokens", "logit_bias[0].token", "logit_bias[1].token",
		"logit_bias[2].value", "logit_bias[3].value", "logit_bias[4].token",
	}
	if !slices.Equal(fields, want) {
		t.Errorf("violations %q\nwant %q", fields, want)
	}
	_, err := New(bad, 100, nil)
	if !errors.Is(err, ErrParams) || !strings.Contains(err.Error(), "top_p") || !strings.Contains(err.Error(), "min_p") {
		t.Errorf("New: %v", err)
	}
	if _, err := New(good, 100, []int32{100}); !errors.Is(err, ErrParams) {
		t.Errorf("an end token outside the vocabulary: %v", err)
	}
	for field, values := range map[string][]float32{
		"temperature":        {nan, inf, -inf, -0.1, 101},
		"typical_p":          {nan, inf, -1, 0, 1.1},
		"top_p":              {nan, inf, -1, 0, 1.1},
		"min_p":              {nan, inf, -0.1, 1.1},
		"repetition_penalty": {nan, inf, -1, 0, 101},
		"presence_penalty":   {nan, inf, -inf, -2.1, 2.1},
		"frequency_penalty":  {nan, inf, -inf, -2.1, 2.1},
	} {
		for _, v := range values {
			p := Defaults()
			*map[string]*float32{
				"temperature": &p.Temperature, "typical_p": &p.TypicalP, "top_p": &p.TopP, "min_p": &p.MinP,
				"repetition_penalty": &p.RepetitionPenalty, "presence_penalty": &p.PresencePenalty, "frequency_penalty": &p.FrequencyPenalty,
			}[field] = v
			if all := p.Validate(100); len(all) != 1 || all[0].Field != field {
				t.Errorf("%s = %v: violations %v", field, v, all)
			}
		}
	}
	p := Defaults()
	p.LogitBias = make([]Bias, MaxBiases+1)
	if all := p.Validate(100); len(all) != 1 || all[0].Field != "logit_bias" {
		t.Errorf("too many biases: %v", all)
	}
}
