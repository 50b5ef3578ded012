package main

import (
	"sort"
	"time"
)

type result struct {
	Requests   int       `json:"requests"`
	Failed     int       `json:"failed"`
	Why        string    `json:"why"`
	Tokens     int       `json:"tokens"`
	Seconds    float64   `json:"seconds"`
	CPU        float64   `json:"cpu_s"` // the load client's own
	LatencyP50 float64   `json:"latency_p50_ms"`
	LatencyP99 float64   `json:"latency_p99_ms"`
	LatencyMax float64   `json:"latency_max_ms"`
	LagP50     float64   `json:"lag_p50_ms"`
	LagP99     float64   `json:"lag_p99_ms"`
	FirstP50   float64   `json:"first_p50_ms"`
	FirstP99   float64   `json:"first_p99_ms"`
	Latencies  []float64 `json:"latencies_ms,omitempty"`
	Beside     *result   `json:"beside,omitempty"`
}

func percentile(all []time.Duration, share float64) float64 {
	if len(all) == 0 {
		return 0
	}
	return ms(all[int(share*float64(len(all)-1))])
}

func ms(one time.Duration) float64 {
	return float64(one.Microseconds()) / 1000
}

func sorted(workers []*worker, of func(*worker) []time.Duration) []time.Duration {
	var all []time.Duration
	for _, w := range workers {
		all = append(all, of(w)...)
	}
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	return all
}

func report(all []*worker, took time.Duration, samples bool) *result {
	out := &result{Seconds: took.Seconds()}
	for _, w := range all {
		out.Requests += len(w.latencies)
		out.Failed += w.failed
		out.Tokens += w.tokens
		if w.why != "" {
			out.Why = w.why
		}
	}
	latencies := sorted(all, func(w *worker) []time.Duration { return w.latencies })
	lags := sorted(all, func(w *worker) []time.Duration { return w.lags })
	firsts := sorted(all, func(w *worker) []time.Duration { return w.firsts })
	out.LatencyP50, out.LatencyP99, out.LatencyMax = percentile(latencies, 0.5), percentile(latencies, 0.99), percentile(latencies, 1)
	out.LagP50, out.LagP99 = percentile(lags, 0.5), percentile(lags, 0.99)
	out.FirstP50, out.FirstP99 = percentile(firsts, 0.5), percentile(firsts, 0.99)
	if samples {
		out.Latencies = inOrder(all)
	}
	return out
}

// inOrder gives the latencies of an open loop in the order in which its requests were due: workers take turns.
func inOrder(all []*worker) []float64 {
	var found []float64
	for turn, more := 0, true; more; turn++ {
		more = false
		for _, w := range all {
			if turn < len(w.latencies) {
				found, more = append(found, ms(w.latencies[turn])), true
			}
		}
	}
	return found
}
