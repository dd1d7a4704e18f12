//! One VOC annotation: XML text to the objects and the file name in it, every fault an error that names the file.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use roxmltree::{Document, Node};
use std::path::{Path, PathBuf};

/// Longest annotation that is read, in bytes; real ones have a few thousand.
const MAX_BYTES: u64 = 4 << 20;
/// Most XML nodes in an annotation.
const MAX_NODES: u32 = 200_000;

/// What an annotation says.
#[derive(Clone, Debug, PartialEq)]
pub struct Annotation {
    /// `<filename>`, checked to be a plain name.
    pub filename: Option<String>,
    /// The objects in the order of the file; at least one.
    pub objects: Vec<Object>,
}

/// One annotated object.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    pub name: String,
    /// xmin, ymin, xmax, ymax as they stand in the file; read by [`Object::sides`].
    bounds: [Option<String>; 4],
}

impl Object {
    /// The area of the box in square pixels. Errors as [`Object::sides`].
    pub fn area(&self, path: &Path) -> Result<f64> {
        let [left, top, right, bottom] = self.sides(path)?;
        Ok((right - left) * (bottom - top))
    }

    /// xmin, ymin, xmax, ymax as they stand in the file, which counts pixels from 1 and takes both ends in. Errors name
    /// `path`, the annotation, when a side is missing or no number, or the box ends before it begins.
    pub fn sides(&self, path: &Path) -> Result<[f64; 4]> {
        let mut sides = [0.0f64; 4];
        for ((side, text), name) in sides.iter_mut().zip(&self.bounds).zip(["xmin", "ymin", "xmax", "ymax"]) {
            let text = text.as_deref().unwrap_or("");
            *side = text.parse().ok().filter(|v: &f64| v.is_finite()).ok_or_else(|| {
                let reason = format!("{name} of a {} is '{}', not a number", self.name, printable(text));
                Error::data(path, reason, "correct the box")
            })?;
        }
        let [left, top, right, bottom] = sides;
        if right < left || bottom < top {
            let reason = format!("the box of a {} ends before it begins", self.name);
            return Err(Error::data(path, reason, "correct the box"));
        }
        Ok(sides)
    }
}

/// The annotation that belongs to an image of a VOC tree: `Annotations/NAME.xml` beside the folder `JPEGImages`.
pub fn beside(image: &Path) -> Option<PathBuf> {
    let folder = image.parent().filter(|folder| folder.file_name().is_some_and(|name| name == "JPEGImages"))?;
    let file = format!("{}.xml", image.file_stem()?.to_str()?);
    Some(folder.parent()?.join("Annotations").join(file)).filter(|path| path.is_file())
}

/// Reads an annotation file; see [`parse`].
pub fn read(path: &Path) -> Result<Annotation> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io(path, &e))?;
    if !meta.is_file() || meta.len() > MAX_BYTES {
        let reason = format!("is no annotation: a file of at most {} MiB is expected", MAX_BYTES >> 20);
        return Err(Error::data(path, reason, "remove it or fetch the data again"));
    }
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, &e))?;
    let text = std::str::from_utf8(&bytes).map_err(|e| {
        Error::data(path, format!("is not UTF-8 at byte {}", e.valid_up_to()), "save the annotation as UTF-8")
    })?;
    parse(text, path)
}

/// Parses an annotation. `path` is only named in errors.
///
/// Errors: a DTD (which no annotation needs, and in which entity bombs hide), malformed XML, no object, an object
/// without a name, and a `<filename>` that is more than a name.
pub fn parse(text: &str, path: &Path) -> Result<Annotation> {
    let options = roxmltree::ParsingOptions { allow_dtd: false, nodes_limit: MAX_NODES, ..Default::default() };
    let document = Document::parse_with_options(text, options).map_err(|e| match e {
        roxmltree::Error::DtdDetected => {
            Error::data(path, "contains a DTD, which annotations may not have", "remove the <!DOCTYPE ...> part")
        }
        other => Error::data(path, format!("not sound XML: {other}"), "correct it or fetch the data again"),
    })?;
    let root = document.root_element();
    let filename = child_text(root, "filename").filter(|name| !name.is_empty());
    if let Some(name) = filename.as_deref().filter(|name| !is_plain_name(name)) {
        let reason = format!("its <filename> '{}' is not a plain file name", printable(name));
        return Err(Error::data(path, reason, "give the name of a file in JPEGImages, without a folder"));
    }
    let mut objects = Vec::new();
    for node in root.children().filter(|n| n.has_tag_name("object")) {
        let name = child_text(node, "name").filter(|name| !name.is_empty());
        let name =
            name.ok_or_else(|| Error::data(path, "an <object> has no <name>", "add the name or remove the object"))?;
        let bounds = node.children().find(|n| n.has_tag_name("bndbox"));
        let side = |side: &str| bounds.and_then(|b| child_text(b, side));
        objects.push(Object { name, bounds: [side("xmin"), side("ymin"), side("xmax"), side("ymax")] });
    }
    if objects.is_empty() {
        let remedy = "annotate an object, or take the image out of the lists and the folder";
        return Err(Error::data(path, "annotates no object", remedy));
    }
    Ok(Annotation { filename, objects })
}

/// Whether `name` names a file in its own folder on every system: no separator, not `.` or `..`, no control character.
pub fn is_plain_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(|c: char| matches!(c, '/' | '\\' | ':') || c.is_control())
}

fn child_text(node: Node, name: &str) -> Option<String> {
    let child = node.children().find(|n| n.has_tag_name(name))?;
    Some(child.text().unwrap_or("").trim().to_string())
}

/// The first part of a text from a file, on one line, fit for a message.
pub fn printable(text: &str) -> String {
    text.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_str(text: &str) -> Result<Annotation> {
        parse(text, Path::new("a.xml"))
    }

    #[test]
    fn names_and_boxes_are_read() {
        let part = "<part><name>head</name><bndbox><xmin>0</xmin></bndbox></part>";
        let text = format!(
            "<annotation><filename>a.jpg</filename><object><name> cat </name>{part}<bndbox><ymin>2</ymin><xmin>1</xmin>\
             <xmax>4.5</xmax><ymax>6</ymax></bndbox></object><object><name>dog</name></object></annotation>"
        );
        let read = parse_str(&text).unwrap();
        assert_eq!(read.filename.as_deref(), Some("a.jpg"));
        assert_eq!(read.objects.iter().map(|o| o.name.as_str()).collect::<Vec<_>>(), ["cat", "dog"]);
        assert_eq!(read.objects[0].area(Path::new("a")).unwrap(), 14.0);
        let missing = read.objects[1].area(Path::new("a.xml")).unwrap_err().to_string();
        assert!(missing.starts_with("a.xml: xmin of a dog is ''"), "{missing}");
    }

    #[test]
    fn faults_are_named() {
        let bomb = "<!DOCTYPE a [<!ENTITY b \"&c;&c;\">]><annotation>&b;</annotation>";
        let object = "<object><name>cat</name></object>";
        let named = |name: &str| format!("<annotation><filename>{name}</filename>{object}</annotation>");
        let cases = [
            (bomb.to_string(), "DTD"),
            ("<annotation><object>".to_string(), "not sound XML"),
            (String::new(), "not sound XML"),
            ("<annotation><filename>a.jpg</filename></annotation>".to_string(), "annotates no object"),
            ("<annotation><object/></annotation>".to_string(), "no <name>"),
            (named("../../etc/passwd"), "not a plain file name"),
            (named("/etc/passwd"), "not a plain file name"),
            (named("sub/a.jpg"), "not a plain file name"),
            (named("..\\a.jpg"), "not a plain file name"),
            (named(".."), "not a plain file name"),
        ];
        for (text, want) in cases {
            let message = parse_str(&text).unwrap_err().to_string();
            assert!(message.starts_with("a.xml: ") && message.contains(want), "{text}: {message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn boxes_that_are_no_boxes_are_refused() {
        let text = |xmax: &str| {
            format!(
                "<a><object><name>cat</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>{xmax}</xmax><ymax>6</ymax></bndbox>\
                 </object></a>"
            )
        };
        for (xmax, want) in
            [("4", "ends before"), ("wide", "not a number"), ("inf", "not a number"), ("NaN", "not a number")]
        {
            let read = parse_str(&text(xmax)).unwrap();
            let message = read.objects[0].area(Path::new("a.xml")).unwrap_err().to_string();
            assert!(message.contains(want), "{xmax}: {message}");
        }
    }
}
