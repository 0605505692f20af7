package files

import (
	"html"
	"strconv"
	"strings"
)

// markup collects a page. html/template would do it too, but it calls methods by their names, so that the linker has to
// keep every exported method of the whole program: two megabytes.
type markup []byte

// literal is markup of our own: only a constant converts to it by itself.
type literal string

// add appends text, in which each of values, escaped, takes the place of one %. They are safe between tags and in
// quoted attributes; links must be built by the program, as all here are.
func (m *markup) add(text literal, values ...string) {
	parts := strings.Split(string(text), "%")
	for i, part := range parts {
		if i > 0 {
			*m = append(*m, html.EscapeString(strings.ToValidUTF8(values[i-1], "\uFFFD"))...) // #nosec G602 -- the texts are constants
		}
		*m = append(*m, part...)
	}
}

func (l *listing) html() []byte {
	var m markup
	head := strings.NewReplacer("{{title}}", html.EscapeString(strings.ToValidUTF8(l.Title, "\uFFFD")), "{{style}}", listingCSS)
	m = append(m, head.Replace(listingHTML)...)
	m.add("<main>\n" + `<nav aria-label="Folders"><ol>`)
	for _, c := range l.Crumbs {
		m.crumb(c)
	}
	m.add("</ol></nav>\n")
	if l.Notice != "" {
		m.add(`<p class="notice">%</p>`, l.Notice)
	}
	m.add("\n<table>\n<thead><tr>")
	for _, c := range l.Columns {
		m.add(`<th scope="col" class="%"`, c.Class)
		if c.Sort != "" {
			m.add(` aria-sort="%"`, c.Sort)
		}
		m.add(`><a href="%">%</a></th>`, c.Href, c.Name)
	}
	m.add("</tr></thead>\n<tbody>\n")
	if l.Parent {
		m.add(`<tr><td class="name"><a href="../"><svg class="up" aria-hidden="true"><use href="#up"/></svg>` +
			"<span>Parent folder</span></a></td><td></td><td></td></tr>\n")
	}
	for _, r := range l.Rows {
		m.row(r)
	}
	if len(l.Rows) == 0 {
		m.add(`<tr><td class="empty" colspan="3">This folder is empty</td></tr>` + "\n")
	}
	m.add("</tbody>\n</table>\n<footer><span>%</span>", l.Summary)
	if l.Pager != nil {
		m.pager(*l.Pager)
	}
	m.add("</footer>\n</main>\n</body>\n</html>\n")
	return m
}

func (m *markup) crumb(c crumb) {
	if c.Href != "" {
		m.add(`<li><a href="%">`, c.Href)
	} else {
		m.add(`<li><span aria-current="page">`)
	}
	if c.Name != "" {
		m.add(`<bdi>%</bdi>`, c.Name)
	} else {
		m.add(`<svg role="img" aria-label="Top folder"><use href="#home"/></svg>`)
	}
	if c.Href != "" {
		m.add(`</a></li>`)
	} else {
		m.add(`</span></li>`)
	}
}

func (m *markup) row(r row) {
	m.add(`<tr><td class="name"><a href="%"><svg class="%" aria-hidden="true"><use href="#%"/></svg><bdi>%</bdi></a></td>`,
		r.Href, r.Icon, r.Icon, r.Name)
	if r.Bytes != "" {
		m.add(`<td class="size" title="%">%</td>`, r.Bytes, r.Size)
	} else {
		m.add(`<td class="size"></td>`)
	}
	m.add(`<td class="time"><time datetime="%">%</time></td></tr>`+"\n", r.Stamp, r.Date)
}

func (m *markup) pager(p pager) {
	m.add(`<nav aria-label="Pages">`)
	if p.Previous != "" {
		m.add(`<a rel="prev" href="%">Previous</a>`, p.Previous)
	}
	m.add(`<span>Page % of %</span>`, strconv.Itoa(p.Page), strconv.Itoa(p.Pages))
	if p.Next != "" {
		m.add(`<a rel="next" href="%">Next</a>`, p.Next)
	}
	m.add(`</nav>`)
}
