//! Plots of the reports, as SVG that stands in the page.
//!
//! | module | what it owns |
//! |---|---|
//! | [`scale`] | from figures to places, and where the ticks are |
//! | [`canvas`] | the elements of an SVG |
//! | [`figure`] | a plot in both widths with its words and its legend |
//! | [`timeline`] | lanes of faults above lines over time |
//! | [`bars`] | a bar for each median, with its spread |
//! | [`stack`] | bars made of parts |
//! | [`percentiles`] | marks on a logarithmic axis |
//!
//! Own code, since `plotters` writes colours into each element: a page that is light and dark, patterns beside the
//! colours and words for those who do not see the picture cannot be had from it. Here an element has a class, and
//! `page/style.css` says how it looks.

pub mod bars;
pub mod canvas;
pub mod figure;
pub mod percentiles;
pub mod scale;
pub mod stack;
pub mod timeline;

pub use figure::Figure;
