package ecosystem_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/prometheus/prometheus/model/histogram"
)

const (
	past     = 2 * time.Hour // how far back a recorded series goes: further than any rule looks
	interval = 15 * time.Second
)

// now is when rules are evaluated. Series have no other time than the distance from it.
var now = time.Now()

// series is one metric of one node over the past two hours: value at the time now, and grew by perSecond all the time before.
type series struct {
	metric    model.Metric
	value     float64
	perSecond float64
	changes   int // how often the value stepped up by one in the last 25 minutes, as a start time does with restarts
}

// recorded is what a Prometheus server would know.
type recorded []*series

// record makes series of a scrape that has said the same for two hours.
func record(vectors ...model.Vector) recorded {
	var r recorded
	for _, v := range vectors {
		for _, s := range v {
			r = append(r, &series{metric: s.Metric.Clone(), value: float64(s.Value)})
		}
	}
	return r
}

// clone is a copy that can be changed.
func (r recorded) clone() recorded {
	var c recorded
	for _, s := range r {
		one := *s
		one.metric = s.metric.Clone()
		c = append(c, &one)
	}
	return c
}

// with are the series of that name that have these labels: pairs of name and value.
func (r recorded) with(name string, pairs ...string) recorded {
	return slices.DeleteFunc(slices.Clone(r), func(s *series) bool {
		if string(s.metric[model.MetricNameLabel]) != name {
			return true
		}
		for i := 0; i < len(pairs); i += 2 {
			if string(s.metric[model.LabelName(pairs[i])]) != pairs[i+1] {
				return true
			}
		}
		return false
	})
}

func (r recorded) set(value float64) {
	for _, s := range r {
		s.value = value
	}
}

func (r recorded) grow(perSecond float64) {
	for _, s := range r {
		s.perSecond = perSecond
		s.value = perSecond * past.Seconds()
	}
}

func (r recorded) label(name, value string) {
	for _, s := range r {
		s.metric[model.LabelName(name)] = model.LabelValue(value)
	}
}

// Querier implements storage.Queryable.
func (r recorded) Querier(int64, int64) (storage.Querier, error) { return querier{r}, nil }

// querier answers from memory. It is asked for samples only.
type querier struct{ recorded }

func (q querier) Select(_ context.Context, _ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	set := &seriesSet{at: -1}
	for _, s := range q.recorded {
		if slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(string(s.metric[model.LabelName(m.Name)])) }) {
			continue
		}
		set.series = append(set.series, storage.NewListSeries(s.labels(), s.samples()))
	}
	return set
}

func (q querier) LabelValues(context.Context, string, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

func (q querier) LabelNames(context.Context, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

func (q querier) Close() error { return nil }

func (s *series) labels() labels.Labels {
	m := map[string]string{}
	for k, v := range s.metric {
		m[string(k)] = string(v)
	}
	return labels.FromMap(m)
}

func (s *series) samples() []chunks.Sample {
	var all []chunks.Sample
	for age := past; age >= 0; age -= interval {
		v := s.value - s.perSecond*age.Seconds()
		if s.changes > 0 {
			v -= float64(min(s.changes, int(age/(25*time.Minute/time.Duration(s.changes)))))
		}
		all = append(all, sample{t: now.Add(-age).UnixMilli(), f: v})
	}
	return all
}

// sample implements chunks.Sample.
type sample struct {
	t int64
	f float64
}

func (s sample) T() int64                      { return s.t }
func (s sample) F() float64                    { return s.f }
func (s sample) H() *histogram.Histogram       { return nil }
func (s sample) FH() *histogram.FloatHistogram { return nil }
func (s sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s sample) Copy() chunks.Sample           { return s }

// seriesSet implements storage.SeriesSet.
type seriesSet struct {
	series []storage.Series
	at     int
}

func (s *seriesSet) Next() bool                        { s.at++; return s.at < len(s.series) }
func (s *seriesSet) At() storage.Series                { return s.series[s.at] }
func (s *seriesSet) Err() error                        { return nil }
func (s *seriesSet) Warnings() annotations.Annotations { return nil }

// evaluate runs an expression as Prometheus would.
func evaluate(t *testing.T, expr string, r recorded) promql.Vector {
	t.Helper()
	e := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e7, Timeout: bound})
	defer func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()
	q, err := e.NewInstantQuery(t.Context(), r, nil, expr, now)
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	defer q.Close()
	v, err := q.Exec(t.Context()).Vector()
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	return slices.Clone(v)
}
