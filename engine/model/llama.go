package model

import "kigo/engine/device"

// llama is Llama 2 and 3, SmolLM2, Mistral (without sliding window) and others
// in their form. Converters reorder the rows of its query and key matrices so
// that rotated pairs are neighbours. Llama 3.1 and later bring their rope
// scaling as a tensor of factors, rope_freqs.weight.
func llama(r *reader) Spec {
	s := r.transformer()
	s.RopeStyle = device.RopeAdjacent
	s.QKVBias = BiasOptional
	return s
}
