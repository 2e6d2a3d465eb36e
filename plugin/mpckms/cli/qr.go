package cli

import (
	"strings"

	"rsc.io/qr"
)

// quietZone is how many light modules stand around a code (ISO/IEC 18004, 5.3.8).
const quietZone = 4

// Colours of a code on a terminal: black on white, whatever the terminal's own are.
const (
	blackOnWhite = "\x1b[38;5;16;48;5;231m"
	plainColours = "\x1b[0m"
)

// drawCode draws a QR code with half blocks, two modules a character: "█" both light,
// "▀" the upper one, "▄" the lower one, a space both dark, as on a dark terminal
// without colours. With colours light and dark are the code's own on any terminal.
func drawCode(link string, colours bool) ([]string, error) {
	code, err := qr.Encode(link, qr.M)
	if err != nil {
		return nil, err
	}
	dark := func(x, y int) bool {
		// Black answers false outside of the code: that is the quiet zone. Of an odd
		// number of rows the last half is light too.
		return code.Black(x, y)
	}
	var lines []string
	for y := -quietZone; y < code.Size+quietZone; y += 2 {
		var b strings.Builder
		if colours {
			b.WriteString(blackOnWhite)
		}
		for x := -quietZone; x < code.Size+quietZone; x++ {
			b.WriteString(halfBlock(dark(x, y), dark(x, y+1), colours))
		}
		if colours {
			b.WriteString(plainColours)
		}
		lines = append(lines, b.String())
	}
	return lines, nil
}

// codeColumns is how many columns of a terminal a drawn code takes.
func codeColumns(lines []string) int {
	n := len([]rune(lines[0]))
	if strings.HasPrefix(lines[0], blackOnWhite) {
		n -= len(blackOnWhite) + len(plainColours)
	}
	return n
}

// halfBlock is two modules, one above the other. With colours the ink is black,
// without them it is the terminal's light.
func halfBlock(upper, lower, colours bool) string {
	if !colours {
		upper, lower = !upper, !lower
	}
	switch {
	case upper && lower:
		return "█"
	case upper:
		return "▀"
	case lower:
		return "▄"
	}
	return " "
}
