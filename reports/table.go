package reports

import (
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/unibus/unibus/reports/check"
)

// Widths of the table. Below the smallest it is cut by the terminal, above the largest lines get hard to follow.
const (
	minTableWidth = 120
	maxTableWidth = 160
	maxFigures    = 3 // per claim
)

// ANSI colours by kind of verdict.
const (
	ansiGood  = "\x1b[32m"
	ansiBad   = "\x1b[1;31m"
	ansiOpen  = "\x1b[33m"
	ansiMuted = "\x1b[2m"
	ansiEnd   = "\x1b[0m"
)

// row is one line of the table. tone colours the verdict.
type row struct {
	cells [6]string // scenario, claim, verdict, figures, seed, run again
	tone  string
}

// Detail is how much the table of proofs says of those that pass.
type Detail bool

// What a table can show.
const (
	Claims Detail = false // every claim of every proof
	Brief  Detail = true  // a line for each proof, and the claims of a proof that are not as wanted
)

// Table is the plain-text table of proofs, for files and logs: no colours, at most 160 columns.
func Table(proofs []Proof, d Detail) string { return renderTable(proofs, maxTableWidth, false, d) }

// PrintTable writes the table to w: in colours and at the terminal's width where w is a terminal and NO_COLOR is not set.
func PrintTable(w io.Writer, proofs []Proof, d Detail) error {
	width, colour := maxTableWidth, false
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
		if cols, _, err := term.GetSize(int(f.Fd())); err == nil {
			width = cols
		}
	}
	if _, err := io.WriteString(w, renderTable(proofs, width, colour, d)); err != nil {
		return fmt.Errorf("print table: %w", err)
	}
	return nil
}

func renderTable(proofs []Proof, width int, colour bool, d Detail) string {
	rows := []row{{cells: [6]string{"SCENARIO", "CLAIM", "VERDICT", "FIGURES", "SEED", "RUN AGAIN"}}}
	for _, p := range proofs {
		if d == Brief {
			rows = append(rows, briefRows(p)...)
		} else {
			rows = append(rows, proofRows(p)...)
		}
	}
	w := columnWidths(rows, min(max(width, minTableWidth), maxTableWidth))
	var b strings.Builder
	for i, r := range rows {
		if i > 0 && r.cells[0] != "" && (d == Claims || i == 1) {
			b.WriteString(paint(strings.Repeat("-", sum(w)+2*(len(w)-1)), ansiMuted, colour) + "\n")
		}
		b.WriteString(r.line(w, colour) + "\n")
	}
	b.WriteString("\n" + Summary(proofs) + "\n")
	return b.String()
}

// Summary is one line: how many proofs have which status.
func Summary(proofs []Proof) string {
	n := map[Status]int{}
	for _, p := range proofs {
		n[p.Status]++
	}
	var parts []string
	for _, s := range []Status{StatusPass, StatusFail, StatusInconclusive, StatusNotRun} {
		if n[s] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[s], strings.ReplaceAll(string(s), "-", " ")))
		}
		delete(n, s)
	}
	for _, c := range n { // a status that does not exist
		parts = append(parts, fmt.Sprintf("%d unknown", c))
	}
	if len(parts) == 0 {
		return "0 proofs: nothing was shown."
	}
	return plural(len(proofs), "proof") + ": " + strings.Join(parts, ", ") + "."
}

func proofRows(p Proof) []row {
	var rows []row
	for _, j := range p.Claims {
		word, tone := verdictWord(j, p.Evidence.NotRun != "")
		rows = append(rows, row{[6]string{"", j.Claim.ID, word, figuresText(j), "", ""}, tone})
	}
	t := count(p)
	if n := t.caught + t.missed; n > 0 {
		r := row{[6]string{"", "(damaged copies)", "CAUGHT", fmt.Sprintf("%d of %d caught", t.caught, n), "", ""}, ansiGood}
		if t.missed > 0 {
			r.cells[2], r.tone = "MISSED", ansiBad
		}
		rows = append(rows, r)
	}
	if len(rows) == 0 || p.Status == StatusNotRun || len(p.Evidence.Errors) > 0 {
		rows = append([]row{{[6]string{"", "(run)", strings.ToUpper(strings.ReplaceAll(string(p.Status), "-", " ")), p.Why, "", ""}, statusTone(p.Status)}}, rows...)
	}
	rows[0].cells[0] = title(p.Evidence)
	rows[0].cells[4] = strconv.FormatUint(p.Evidence.Seed, 10)
	rows[0].cells[5] = p.Evidence.Command
	return rows
}

// briefRows is one line for a proof, and one for each of its claims that is not as wanted.
func briefRows(p Proof) []row {
	t := count(p)
	var rest []row
	for _, j := range p.Claims {
		if word, tone := verdictWord(j, p.Evidence.NotRun != ""); !j.Satisfied && p.Evidence.NotRun == "" {
			rest = append(rest, row{[6]string{"", j.Claim.ID, word, figuresText(j), "", ""}, tone})
		}
	}
	figures := []string{thousands(p.Ops) + " ops"}
	if t.fired > 0 {
		figures = append(figures, plural(t.fired, "control")+" fired")
	}
	if n := t.caught + t.missed; n > 0 {
		figures = append(figures, fmt.Sprintf("%d of %d damaged copies caught", t.caught, n))
	}
	again := ""
	if p.Status != StatusPass {
		again = p.Evidence.Command
	}
	if p.Status == StatusNotRun || len(p.Evidence.Errors) > 0 {
		figures = []string{p.Why}
	}
	held := fmt.Sprintf("%d hold", t.total-len(rest)-t.fired)
	if len(rest) > 0 {
		held = fmt.Sprintf("%d of %d as wanted", t.total-len(rest), t.total)
	}
	first := row{[6]string{title(p.Evidence), held, strings.ToUpper(strings.ReplaceAll(string(p.Status), "-", " ")), strings.Join(figures, ", "),
		strconv.FormatUint(p.Evidence.Seed, 10), again}, statusTone(p.Status)}
	return append([]row{first}, rest...)
}

// verdictWord is what the table and the reports call a claim's result.
func verdictWord(j Judged, notRun bool) (word, tone string) {
	switch {
	case notRun:
		return "NOT RUN", ansiMuted
	case j.Claim.Control() && j.Satisfied:
		return "FAIL, wanted", ansiGood
	case j.Claim.Control():
		return "DID NOT FIRE", ansiBad
	case j.Satisfied:
		return "PASS", ansiGood
	case j.Result.Verdict == check.Fail:
		return "FAIL", ansiBad
	}
	return "INCONCLUSIVE", ansiOpen
}

func statusTone(s Status) string {
	switch s {
	case StatusPass:
		return ansiGood
	case StatusFail:
		return ansiBad
	case StatusNotRun:
		return ansiMuted
	}
	return ansiOpen
}

// figuresText is the most telling figures of a claim; without a pass, its code comes first.
func figuresText(j Judged) string {
	var parts []string
	if j.Result.Verdict != check.Pass && j.Result.Code != "" {
		parts = append(parts, j.Result.Code)
	}
	for _, f := range telling(j, maxFigures) {
		parts = append(parts, figureText(f))
	}
	if len(parts) == 0 {
		return j.Result.Reason
	}
	return strings.Join(parts, ", ")
}

// tellingNames are the figures that say most for each checker, in order. One that begins with "*" matches the end of a name.
var tellingNames = map[string][]string{
	"stream-accounting": {"acked", "acked_missing", "unknown"},
	"replica-agreement": {"copies", "targets", "replicas_differ"},
	"kv-linearizable":   {"ok", "keys", "unknown_writes"},
	"kv-durable":        {"keys_acked", "acked", "acked_missing"},
	"no-ack":            {"attempts", "acked", "answer_max_s"},
	"availability":      {"longest_gap_s", "first_ok_s", "ok"},
	"health":            {"samples", "nodes", "window_s"},
	"health-truth":      {"samples", "longest_outage_s", "ready_while_unwritable"},
	"converged":         {"converged", "median_s", "max_s"},
	"faults":            {"in_force", "force_median", "force_max"},
	"preconditions":     {"ops", "during", "after"},
	"consumer":          {"items", "skipped", "redelivered_after_ack"},
	"client-gaps":       {"stranded", "* gap_max_s"},
	"latency":           {"* ratio", "* loaded_ms"},
	"stale-reads":       {"direct_reads", "stale", "stale_share"},
}

// telling picks at most n figures of a claim. The one that the code names comes first: it counts what was found.
func telling(j Judged, n int) []check.Figure {
	names := append([]string{strings.ReplaceAll(j.Result.Code, "-", "_")}, tellingNames[j.Claim.Spec.Checker]...)
	var picked []check.Figure
	for _, name := range names {
		end, isEnd := strings.CutPrefix(name, "*")
		for _, f := range j.Result.Figures {
			if (f.Name == name || isEnd && strings.HasSuffix(f.Name, end)) && !slices.Contains(picked, f) && len(picked) < n {
				picked = append(picked, f)
			}
		}
	}
	for _, f := range j.Result.Figures { // a checker that is not in the list puts its important ones first
		if len(picked) == 0 || tellingNames[j.Claim.Spec.Checker] == nil && len(picked) < n && !slices.Contains(picked, f) {
			picked = append(picked, f)
		}
	}
	return picked
}

func figureText(f check.Figure) string { return figureName(f) + " " + figureLine(f) }

// figureName is a figure's name for people; a unit that the name ends with is not said twice.
func figureName(f check.Figure) string {
	return strings.NewReplacer("_", " ", "-", " ").Replace(strings.TrimSuffix(f.Name, "_"+f.Unit))
}

// number prints counts whole and everything else with three digits that matter.
func number(v float64) string {
	if v == math.Trunc(v) && math.Abs(v) < 1e15 {
		if math.Abs(v) >= 10_000 {
			return thousands(int(v))
		}
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	digits := 2
	switch a := math.Abs(v); {
	case a >= 100:
		digits = 0
	case a >= 10:
		digits = 1
	case a < 0.1:
		digits = 4
	case a < 1:
		digits = 3
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}

// columnWidths gives each column what it needs, and takes from the widest text columns what is too much.
func columnWidths(rows []row, total int) [6]int {
	var w [6]int
	for _, r := range rows {
		for i, c := range r.cells {
			w[i] = max(w[i], utf8.RuneCountInString(oneLine(c)))
		}
	}
	floor := [6]int{14, 18, 12, 24, 4, 24}
	for sum(w)+2*(len(w)-1) > total {
		widest := -1
		for _, i := range []int{3, 5, 1, 0, 4, 2} {
			if w[i] > floor[i] && (widest < 0 || w[i] > w[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		w[widest]--
	}
	return w
}

func (r row) line(w [6]int, colour bool) string {
	var b strings.Builder
	for i, c := range r.cells {
		text := ellipsis(oneLine(c), w[i])
		pad := strings.Repeat(" ", max(0, w[i]-utf8.RuneCountInString(text)))
		if i == 2 && r.tone != "" {
			text = paint(text, r.tone, colour)
		}
		b.WriteString(text + pad)
		if i < len(w)-1 {
			b.WriteString("  ")
		}
	}
	return strings.TrimRight(b.String(), " ")
}

func paint(s, tone string, colour bool) string {
	if !colour || tone == "" {
		return s
	}
	return tone + s + ansiEnd
}

func sum(w [6]int) int {
	n := 0
	for _, x := range w {
		n += x
	}
	return n
}

// oneLine keeps text from outside from moving the cursor or breaking the table.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

// ellipsis cuts s to n characters.
func ellipsis(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:max(0, n-1)]) + "…"
}
