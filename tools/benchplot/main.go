// Command benchplot draws the result of `make bench`: the ratios that have a target, and how long each way of running a no-op
// command takes.
//
//	benchplot JSON SVG
//
// It is in this module, and reads the file instead of being handed the values, to keep the plotting library out of the product's.
package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"image/color"
	"math"
	"os"
	"slices"

	"codeberg.org/go-fonts/liberation/liberationsansregular"
	"golang.org/x/image/font/opentype"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// result is what is read of a report (integration/lab/bench/report).
type result struct {
	Scenes []scene `json:"scenes"`
	Rows   []row   `json:"rows"`
}

type scene struct {
	Name, Title string
	Series      map[string][]float64
}

type row struct {
	What, Scene                    string
	Q1, Median, Q3, Target, Beyond float64
}

// drawn are the scenes and the series of which the times are shown.
var (
	drawn = []string{"paced", "paced-seccomp", "load", "throttled"}
	ways  = []string{"preStop handler", "postStart handler", "lifecycle Run RPC", "nsenter", "crun exec", "runc exec", "stock exec RPCs", "ctr task exec"}
)

var (
	blue   = color.NRGBA{R: 0x1f, G: 0x77, B: 0xb4, A: 0xff}
	red    = color.NRGBA{R: 0xd6, G: 0x27, B: 0x28, A: 0xff}
	green  = color.NRGBA{R: 0x2c, G: 0xa0, B: 0x2c, A: 0xff}
	lines  = color.NRGBA{R: 0xdd, G: 0xdd, B: 0xdd, A: 0xff}
	filled = color.NRGBA{R: 0xae, G: 0xc7, B: 0xe8, A: 0xff}
)

// leastRatio is what the logarithmic axis begins with. Noise can make a difference of two times negative.
const leastRatio = 0.05

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: benchplot JSON SVG")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "benchplot:", err)
		os.Exit(1)
	}
}

func run(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var r result
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	if err := useFont(); err != nil {
		return err
	}
	plots, heights, err := panels(&r)
	if err != nil {
		return err
	}
	if len(plots) == 0 {
		return fmt.Errorf("%s has nothing of what is drawn: the scenes %q, and ratios with a target", from, drawn)
	}
	return save(plots, heights, to)
}

// useFont: every viewer has Arial, or what has its measures: those of the font that is used to place the text here.
func useFont() error {
	face, err := opentype.Parse(liberationsansregular.TTF)
	if err != nil {
		return err
	}
	arial := font.Font{Typeface: "Arial"}
	font.DefaultCache.Add([]font.Face{{Font: arial, Face: face}})
	plot.DefaultFont, plotter.DefaultFont = arial, arial
	return nil
}

// panels are the plots from top to bottom, with how many lines each has.
func panels(r *result) (plots []*plot.Plot, heights []int, err error) {
	var targets []row
	for _, row := range r.Rows {
		if row.Target > 0 {
			targets = append(targets, row)
		}
	}
	if len(targets) > 0 {
		p, err := ratios(targets)
		if err != nil {
			return nil, nil, err
		}
		plots, heights = append(plots, p), append(heights, len(targets))
	}
	for _, name := range drawn {
		i := slices.IndexFunc(r.Scenes, func(s scene) bool { return s.Name == name })
		if i < 0 {
			continue
		}
		p, err := times(r.Scenes[i])
		if err != nil {
			return nil, nil, err
		}
		plots, heights = append(plots, p), append(heights, len(ways))
	}
	return plots, heights, nil
}

// panel is an empty plot with a logarithmic axis, and names at its left side, the first one on top.
func panel(title, unit string, names []string) *plot.Plot {
	p := plot.New()
	p.Title.Text = title
	p.Title.Padding = vg.Points(6)
	p.X.Label.Text = unit
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.TickerFunc(roundTicks)
	p.NominalY(names...)
	p.Y.Min, p.Y.Max = -0.6, float64(len(names))-0.4
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = lines, lines
	p.Add(grid)
	return p
}

// roundTicks are 1, 2 and 5 times the powers of ten.
func roundTicks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	for power := math.Pow(10, math.Floor(math.Log10(low))); power <= high; power *= 10 {
		for _, times := range []float64{1, 2, 5} {
			if value := times * power; value >= low && value <= high {
				ticks = append(ticks, plot.Tick{Value: value, Label: fmt.Sprintf("%.4g", value)})
			}
		}
	}
	return ticks
}

func ratios(rows []row) (*plot.Plot, error) {
	rows = slices.Clone(rows)
	slices.Reverse(rows) // the axis goes up
	var names []string
	for _, row := range rows {
		names = append(names, row.Scene+": "+row.What)
	}
	p := panel("Targets: medians of ratios with their quartiles; red the target, green the aim; lower is better", "ratio", names)
	var medians plotter.XYs
	var spread plotter.XErrors
	var targets, aims plotter.XYs
	for i, row := range rows {
		median, y := max(row.Median, leastRatio), float64(i)
		medians = append(medians, plotter.XY{X: median, Y: y})
		spread = append(spread, struct{ Low, High float64 }{median - max(row.Q1, leastRatio), max(row.Q3, leastRatio) - median})
		targets = append(targets, plotter.XY{X: row.Target, Y: y})
		aims = append(aims, plotter.XY{X: cmp.Or(row.Beyond, row.Target), Y: y})
	}
	for _, marks := range []struct {
		at     plotter.XYs
		colour color.Color
	}{{aims, green}, {targets, red}} {
		for _, at := range marks.at {
			line, err := plotter.NewLine(plotter.XYs{{X: at.X, Y: at.Y - 0.35}, {X: at.X, Y: at.Y + 0.35}})
			if err != nil {
				return nil, err
			}
			line.Color, line.Width = marks.colour, vg.Points(2)
			p.Add(line)
		}
	}
	bars, err := plotter.NewXErrorBars(struct {
		plotter.XYs
		plotter.XErrors
	}{medians, spread})
	if err != nil {
		return nil, err
	}
	bars.Color, bars.Width = blue, vg.Points(1.5)
	dots, err := plotter.NewScatter(medians)
	if err != nil {
		return nil, err
	}
	dots.Color, dots.Shape, dots.Radius = blue, draw.CircleGlyph{}, vg.Points(3.5)
	p.Add(bars, dots)
	p.X.Min, p.X.Max = p.X.Min*0.9, p.X.Max*1.1
	return p, nil
}

func times(s scene) (*plot.Plot, error) {
	names := slices.Clone(ways)
	slices.Reverse(names)
	p := panel(s.Name+": a no-op command; "+s.Title, "ms", names)
	for i, name := range names {
		values := s.Series[name]
		if len(values) == 0 {
			return nil, fmt.Errorf("the scene %s has no %q", s.Name, name)
		}
		box, err := plotter.NewBoxPlot(vg.Points(12), float64(i), plotter.Values(values))
		if err != nil {
			return nil, err
		}
		box.Horizontal, box.FillColor = true, filled
		p.Add(box)
	}
	p.X.Min, p.X.Max = p.X.Min*0.9, p.X.Max*1.1
	return p, nil
}

// save draws the panels below each other, with the names' ends at one line.
func save(plots []*plot.Plot, heights []int, to string) error {
	const (
		width  = 26 * vg.Centimeter
		line   = 0.62 * vg.Centimeter
		around = 2.4 * vg.Centimeter // title and axis
	)
	var total vg.Length
	for _, lines := range heights {
		total += line*vg.Length(lines) + around
	}
	svg := vgsvg.New(width, total)
	canvas := draw.New(svg)
	canvas.SetColor(color.White)
	canvas.Fill(canvas.Rectangle.Path())
	top := total
	for i, p := range plots {
		height := line*vg.Length(heights[i]) + around
		p.Draw(draw.Crop(canvas, vg.Points(8), -vg.Points(12), top-height, top-total-vg.Points(6)))
		top -= height
	}
	file, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := svg.WriteTo(file); err != nil {
		_ = file.Close()
		return err
	}
	return file.Close()
}
