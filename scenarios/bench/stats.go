package bench

import (
	"math"
	"slices"
)

// Spread sums up a set of figures.
type Spread struct {
	N      int     `json:"n"`
	Median float64 `json:"median"`
	P90    float64 `json:"p90"`
	P99    float64 `json:"p99"`
	Max    float64 `json:"max"`
}

// spreadOf sorts a copy. With fewer than 100 figures P99 is the largest of them.
func spreadOf(xs []float64) Spread {
	if len(xs) == 0 {
		return Spread{}
	}
	xs = slices.Sorted(slices.Values(xs))
	at := func(q float64) float64 { return xs[max(0, int(math.Ceil(q*float64(len(xs))))-1)] } // nearest rank
	return Spread{N: len(xs), Median: at(0.5), P90: at(0.9), P99: at(0.99), Max: xs[len(xs)-1]}
}

// Ratio is how one system compares with another that was measured in turn with it: the Hodges-Lehmann estimate with its interval.
type Ratio struct {
	Pairs    int     `json:"pairs"`
	Estimate float64 `json:"estimate"`
	Low      float64 `json:"low"`  // of the interval
	High     float64 `json:"high"` //
	Level    float64 `json:"level"`
}

// wantedLevel is the confidence that an interval has if there are pairs enough, which is six.
const wantedLevel = 0.95

// ratioOf compares pairs of measurements that were made one right after the other. It takes the logarithms of their ratios, and of those the median
// of all pairwise means (Hodges and Lehmann 1963), with the interval that belongs to Wilcoxon's signed-rank test: no distribution is assumed but that
// the logarithms lie symmetrically about their centre.
func ratioOf(a, b []float64) Ratio {
	n := min(len(a), len(b))
	if n == 0 {
		return Ratio{}
	}
	d := make([]float64, n)
	for i := range n {
		d[i] = math.Log(a[i] / b[i])
	}
	var means []float64
	for i := range d {
		for j := i; j < n; j++ {
			means = append(means, (d[i]+d[j])/2)
		}
	}
	slices.Sort(means)
	k, level := rankCut(n)
	mid := len(means) / 2
	est := means[mid]
	if len(means)%2 == 0 {
		est = (means[mid-1] + means[mid]) / 2
	}
	return Ratio{Pairs: n, Estimate: math.Exp(est), Low: math.Exp(means[k]), High: math.Exp(means[len(means)-1-k]), Level: level}
}

// rankCut says how many of the sorted means lie outside the interval at each end, so that its confidence is at least the wanted one, and what it
// then is. With so few pairs that there is none, the interval is the whole range with the confidence that it has.
func rankCut(n int) (k int, level float64) {
	// ways[s] counts the sets of ranks 1..n whose sum is s: under symmetry each is as likely.
	ways := make([]float64, n*(n+1)/2+1)
	ways[0] = 1
	for r := 1; r <= n; r++ {
		for s := len(ways) - 1; s >= r; s-- {
			ways[s] += ways[s-r]
		}
	}
	total, below := math.Exp2(float64(n)), 0.0
	for ; k < len(ways); k++ {
		if below+ways[k] > total*(1-wantedLevel)/2 {
			break
		}
		below += ways[k]
	}
	if k == 0 {
		return 0, 1 - 2*ways[0]/total
	}
	return k - 1, 1 - 2*below/total
}
