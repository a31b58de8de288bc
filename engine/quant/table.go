package quant

// table holds every format that Kigo reads, in order of type number. It is never
// written.
var table = [...]Format{
	{F32, "F32", 1, 4, dequantizeF32, quantizeF32},
	{F16, "F16", 1, 2, dequantizeF16, quantizeF16},
	{Q4_0, "Q4_0", q4Size, q4_0Bytes, dequantizeQ4_0, quantizeQ4_0},
	{Q4_1, "Q4_1", q4Size, q4_1Bytes, dequantizeQ4_1, nil},
	{Q5_0, "Q5_0", q5Size, q5_0Bytes, dequantizeQ5_0, nil},
	{Q5_1, "Q5_1", q5Size, q5_1Bytes, dequantizeQ5_1, nil},
	{Q8_0, "Q8_0", q8Size, q8_0Bytes, dequantizeQ8_0, quantizeQ8_0},
	{Q4_K, "Q4_K", kSize, q4kBytes, dequantizeQ4K, nil},
	{Q5_K, "Q5_K", kSize, q5kBytes, dequantizeQ5K, nil},
	{Q6_K, "Q6_K", kSize, q6kBytes, dequantizeQ6K, nil},
	{BF16, "BF16", 1, 2, dequantizeBF16, quantizeBF16},
}

// find returns the row of a type, or nil.
func find(t Type) *Format {
	for i := range table {
		if table[i].Type == t {
			return &table[i]
		}
	}
	return nil
}

// otherName returns GGML's name of a type that Kigo does not read, so that an
// error can say which it was. Numbers that GGML has withdrawn have no name.
func otherName(t Type) (string, bool) {
	switch t {
	case 9:
		return "Q8_1", true
	case 10:
		return "Q2_K", true
	case 11:
		return "Q3_K", true
	case 15:
		return "Q8_K", true
	case 16:
		return "IQ2_XXS", true
	case 17:
		return "IQ2_XS", true
	case 18:
		return "IQ3_XXS", true
	case 19:
		return "IQ1_S", true
	case 20:
		return "IQ4_NL", true
	case 21:
		return "IQ3_S", true
	case 22:
		return "IQ2_S", true
	case 23:
		return "IQ4_XS", true
	case 24:
		return "I8", true
	case 25:
		return "I16", true
	case 26:
		return "I32", true
	case 27:
		return "I64", true
	case 28:
		return "F64", true
	case 29:
		return "IQ1_M", true
	case 34:
		return "TQ1_0", true
	case 35:
		return "TQ2_0", true
	case 39:
		return "MXFP4", true
	case 40:
		return "NVFP4", true
	case 41:
		return "Q1_0", true
	}
	return "", false
}
