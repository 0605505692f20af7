package files

import (
	"io"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// types are the content types by file name extension. The table is complete in itself: the mime package reads the
// machine's files, of which a scratch image has none and two machines have different ones. Source code, logs and
// whatever else is text are recognised by looking at them, see contentType.
var types = map[string]string{
	// pages and what belongs to them
	"html": "text/html; charset=utf-8", "htm": "text/html; charset=utf-8", "xhtml": "application/xhtml+xml",
	"css": "text/css; charset=utf-8",
	"js":  "text/javascript; charset=utf-8", "mjs": "text/javascript; charset=utf-8",
	"cjs":  "text/javascript; charset=utf-8",
	"json": "application/json", "map": "application/json", "jsonld": "application/ld+json",
	"geojson": "application/geo+json", "webmanifest": "application/manifest+json",
	"wasm": "application/wasm", "ndjson": "application/x-ndjson",
	"xml": "text/xml; charset=utf-8", "xsl": "text/xml; charset=utf-8", "xsd": "text/xml; charset=utf-8",
	"rss": "application/rss+xml; charset=utf-8", "atom": "application/atom+xml; charset=utf-8",
	"yaml": "application/yaml", "yml": "application/yaml", "toml": "application/toml",

	// text
	"txt": "text/plain; charset=utf-8", "text": "text/plain; charset=utf-8", "log": "text/plain; charset=utf-8",
	"md": "text/markdown; charset=utf-8", "markdown": "text/markdown; charset=utf-8",
	"csv": "text/csv; charset=utf-8", "tsv": "text/tab-separated-values; charset=utf-8",
	"ics": "text/calendar; charset=utf-8", "vcf": "text/vcard; charset=utf-8", "vtt": "text/vtt; charset=utf-8",

	// images
	"svg": "image/svg+xml", "png": "image/png", "apng": "image/apng", "jpg": "image/jpeg", "jpeg": "image/jpeg",
	"gif": "image/gif", "webp": "image/webp", "avif": "image/avif", "heic": "image/heic", "heif": "image/heif",
	"jxl": "image/jxl", "bmp": "image/bmp", "ico": "image/vnd.microsoft.icon", "tif": "image/tiff",
	"tiff": "image/tiff", "psd": "image/vnd.adobe.photoshop",

	// fonts
	"woff2": "font/woff2", "woff": "font/woff", "ttf": "font/ttf", "otf": "font/otf", "ttc": "font/collection",
	"eot": "application/vnd.ms-fontobject",

	// sound
	"mp3": "audio/mpeg", "m4a": "audio/mp4", "aac": "audio/aac", "oga": "audio/ogg", "ogg": "audio/ogg",
	"opus": "audio/ogg", "flac": "audio/flac", "wav": "audio/wav", "weba": "audio/webm", "mid": "audio/midi",
	"midi": "audio/midi",

	// moving pictures
	"mp4": "video/mp4", "m4v": "video/mp4", "m4s": "video/iso.segment", "webm": "video/webm", "ogv": "video/ogg",
	"mov": "video/quicktime", "mkv": "video/matroska", "avi": "video/x-msvideo", "mpg": "video/mpeg",
	"mpeg": "video/mpeg", "ts": "video/mp2t", "m3u8": "application/vnd.apple.mpegurl", "mpd": "application/dash+xml",

	// documents
	"pdf": "application/pdf", "rtf": "application/rtf", "epub": "application/epub+zip",
	"doc": "application/msword", "xls": "application/vnd.ms-excel", "ppt": "application/vnd.ms-powerpoint",
	"docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
	"xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
	"pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
	"odt":  "application/vnd.oasis.opendocument.text", "ods": "application/vnd.oasis.opendocument.spreadsheet",
	"odp": "application/vnd.oasis.opendocument.presentation",

	// archives, packages, images of disks
	"zip": "application/zip", "gz": "application/gzip", "tgz": "application/gzip", "tar": "application/x-tar",
	"bz2": "application/x-bzip2", "xz": "application/x-xz", "zst": "application/zstd", "br": octets,
	"7z": "application/x-7z-compressed", "rar": "application/vnd.rar", "jar": "application/java-archive",
	"war": "application/java-archive", "apk": "application/vnd.android.package-archive",
	"deb": "application/vnd.debian.binary-package", "rpm": "application/x-rpm", "whl": "application/zip",
	"iso": octets, "img": octets, "qcow2": octets, "dmg": "application/x-apple-diskimage", "bin": octets, "exe": octets,
	"msi": octets, "dll": octets, "so": octets, "dat": octets, "pkg": octets, "parquet": "application/vnd.apache.parquet",
	"sqlite": "application/vnd.sqlite3", "glb": "model/gltf-binary", "gltf": "model/gltf+json", "stl": "model/stl",
	"p7m": "application/pkcs7-mime", "der": "application/pkix-cert", "crt": "application/x-x509-ca-cert",
	"pem": "application/x-pem-file", "torrent": "application/x-bittorrent",
}

const (
	octets    = "application/octet-stream"
	plainText = "text/plain; charset=utf-8"
	// sniffed is how many bytes of a file with an unknown extension are looked at.
	sniffed = 512
)

// contentType is the type of the file called name. An extension the table does not know leaves one question, whether a
// browser may show the file or only save it, and the first bytes answer that. They are never taken for HTML or
// anything else that runs.
func contentType(name string, content io.ReaderAt) string {
	if t := typeByName(name); t != "" {
		return t
	}
	head := make([]byte, sniffed)
	n, err := content.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return octets
	}
	if isText(head[:n], n == sniffed) {
		return plainText
	}
	return octets
}

// typeByName is the type by the extension of name, "" if it has none or an unknown one.
func typeByName(name string) string {
	return types[strings.ToLower(strings.TrimPrefix(filepath.Ext(name), "."))]
}

// isText reports whether head is UTF-8 without control characters other than those found in text files (escape
// sequences colour logs). A character cut off at the end counts if there is more of the file.
func isText(head []byte, more bool) bool {
	for len(head) > 0 {
		r, size := utf8.DecodeRune(head)
		if r == utf8.RuneError && size == 1 {
			return more && !utf8.FullRune(head)
		}
		if r < ' ' && !strings.ContainsRune("\t\n\v\f\r\b\x1b", r) || r == 0x7f {
			return false
		}
		head = head[size:]
	}
	return true
}
