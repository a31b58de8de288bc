package sample

// What a plan is followed with.
var (
	Share = share
	Point = point
)

// Weigh is the weight of a logit.
func Weigh(largest, logit float32, scale float64) uint64 {
	return weight(place(float64(largest), logit, scale))
}
