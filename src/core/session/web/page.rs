//! The page: plain files, embedded in the binary.

/// A file of the page.
#[derive(Debug)]
pub(super) struct Asset {
    pub path: &'static str,
    pub media_type: &'static str,
    pub bytes: &'static [u8],
}

/// All of them.
static ASSETS: [Asset; 4] = [
    Asset {
        path: "/",
        media_type: "text/html; charset=utf-8",
        bytes: include_bytes!("../../page/index.html"),
    },
    Asset {
        path: "/app.js",
        media_type: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../../page/app.js"),
    },
    Asset {
        path: "/style.css",
        media_type: "text/css; charset=utf-8",
        bytes: include_bytes!("../../page/style.css"),
    },
    Asset {
        path: "/icon.svg",
        media_type: "image/svg+xml",
        bytes: include_bytes!("../../page/icon.svg"),
    },
];

/// The file at a path.
pub(super) fn find(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}
