package cli

import (
	"image"
	"image/color"
	"strings"
	"testing"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"
)

// readBlocks decodes the code that is printed with half blocks, as a camera would see
// it on a dark terminal: blocks are light.
func readBlocks(t *testing.T, printed string) string {
	t.Helper()
	var rows [][]rune
	for line := range strings.Lines(printed) {
		line = strings.TrimRight(line, "\n")
		if strings.Trim(line, "█▀▄ ") == "" && line != "" {
			rows = append(rows, []rune(line))
		}
	}
	const scale = 8
	img := image.NewGray(image.Rect(0, 0, len(rows[0])*scale, len(rows)*2*scale))
	for y, row := range rows {
		for x, r := range row {
			upper, lower := r == '█' || r == '▀', r == '█' || r == '▄'
			for dy := range 2 * scale {
				light := upper
				if dy >= scale {
					light = lower
				}
				for dx := range scale {
					if light {
						img.SetGray(x*scale+dx, y*2*scale+dy, color.Gray{255})
					}
				}
			}
		}
	}
	bitmap, err := gozxing.NewBinaryBitmapFromImage(img)
	if err != nil {
		t.Fatal(err)
	}
	result, err := qrcode.NewQRCodeReader().Decode(bitmap, nil)
	if err != nil {
		t.Fatalf("%v in\n%s", err, printed)
	}
	return result.GetText()
}

// With colours the code is dark on light whatever the terminal's colours are; without
// the escapes it is the same code with blocks for dark.
func TestDrawCode(t *testing.T) {
	const link = "https://vault.example.com/v1/mpc/ui/phone#r=50&f=AAAA"
	plain, err := drawCode(link, false)
	if err != nil {
		t.Fatal(err)
	}
	if got := readBlocks(t, strings.Join(plain, "\n")); got != link {
		t.Errorf("%q", got)
	}
	coloured, err := drawCode(link, true)
	if err != nil {
		t.Fatal(err)
	}
	swap := strings.NewReplacer(blackOnWhite, "", plainColours, "", "█", " ", " ", "█", "▀", "▄", "▄", "▀")
	if got := swap.Replace(strings.Join(coloured, "\n")); got != strings.Join(plain, "\n") {
		t.Error("the coloured code is another one")
	}
	for i, l := range coloured {
		if !strings.HasPrefix(l, blackOnWhite) || !strings.HasSuffix(l, plainColours) {
			t.Fatalf("line %d keeps its colours", i)
		}
	}
	if _, err := drawCode(strings.Repeat("x", 5000), false); err == nil {
		t.Error("a link that fits no code was drawn")
	}
}
