package report

import (
	"math"
	"slices"
)

// Spread sums values up.
type Spread struct {
	N      int     `json:"n"`
	Min    float64 `json:"min"`
	Q1     float64 `json:"q1"`
	Median float64 `json:"median"`
	Q3     float64 `json:"q3"`
	Max    float64 `json:"max"`
}

// Summarize returns the spread of values, of which there is one at least.
func Summarize(values []float64) Spread {
	sorted := slices.Sorted(slices.Values(values))
	return Spread{
		N: len(sorted), Min: sorted[0], Q1: quantile(sorted, 0.25), Median: quantile(sorted, 0.5),
		Q3: quantile(sorted, 0.75), Max: sorted[len(sorted)-1],
	}
}

// quantile interpolates between the two nearest of the sorted values, as R and NumPy do by default.
func quantile(sorted []float64, p float64) float64 {
	at := p * float64(len(sorted)-1)
	below := math.Floor(at)
	low, high := sorted[int(below)], sorted[int(math.Ceil(at))]
	return low + (high-low)*(at-below)
}
