package cpu

import "kigo/engine/device"

// shareMemory finds a place for each value of a program, such that values which
// are wanted at the same time have different ones, and says how wide the places
// must be. A forward pass then takes the memory of a layer, not of all layers.
func shareMemory(p *device.Program) (places, widths []int) {
	last := make([]int, len(p.Values)) // the last operator that touches the value
	for i, op := range p.Ops {
		eachValue(op, func(v device.Value) { last[v] = i })
	}
	places = make([]int, len(p.Values))
	for i := range places {
		places[i] = -1
	}
	var free []int
	for i, op := range p.Ops {
		eachValue(op, func(v device.Value) {
			if places[v] >= 0 {
				return
			}
			width := p.Values[v].Width
			best := -1
			for j, place := range free {
				if best < 0 || better(widths[place], widths[free[best]], width) {
					best = j
				}
			}
			if best < 0 {
				places[v] = len(widths)
				widths = append(widths, width)
				return
			}
			places[v] = free[best]
			widths[places[v]] = max(widths[places[v]], width)
			free = append(free[:best], free[best+1:]...)
		})
		eachValue(op, func(v device.Value) {
			if last[v] == i {
				free = append(free, places[v])
				last[v] = -1 // once
			}
		})
	}
	for v := range places { // values that no operator knows
		if places[v] < 0 {
			places[v] = 0
		}
	}
	return places, widths
}

// better says whether place width a suits better than b: the smallest that is
// wide enough, else the widest.
func better(a, b, width int) bool {
	if (a >= width) != (b >= width) {
		return a >= width
	}
	if a >= width {
		return a < b
	}
	return a > b
}

// eachValue calls use for every value that an operator reads or writes.
func eachValue(op device.Op, use func(device.Value)) {
	some := func(values ...device.Value) {
		for _, v := range values {
			if v != device.NoValue {
				use(v)
			}
		}
	}
	switch op := op.(type) {
	case *device.Embed:
		some(op.Out)
	case *device.Project:
		some(op.In, op.Residual)
		for _, m := range op.Mats {
			some(m.Out)
		}
	case *device.Rope:
		some(op.Q, op.K, op.V, op.QOut, op.KOut)
	case *device.Attend:
		some(op.Q, op.Out)
	case *device.Logits:
		some(op.In)
	}
}
