//! What the log costs in memory, without a disk: encoding, recovery, and a scan over noise.
//!
//! `cargo bench -p sapwood-state --bench log`; each figure is the best of five.

use sapwood_state::limits::SEGMENT_BYTES;
use sapwood_state::log::{
    Entry, FileId, FileStart, Fill, Index, PartitionId, Position, Recovery, Remembered,
    SEGMENT_HEAD_BYTES, Secret, Settings, Writer, Writes,
};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;

type Disk = BTreeMap<FileId, Vec<u8>>;

fn main() {
    println!("encoding, copied to nowhere");
    for (command, entries) in [
        (128, 1),
        (128, 10),
        (128, 1_000),
        (128 * 1024, 1),
        (1 << 20, 1),
    ] {
        encode(command, entries);
    }
    println!("recovery of a full segment of 64 MiB");
    for (command, entries) in [(128, 1), (128, 100), (128 * 1024, 1)] {
        recover(command, entries);
    }
    println!("scan of 64 MiB behind the end");
    let forged = forged_noise();
    for (name, noise) in [
        ("zeros", vec![0; SEGMENT_BYTES as usize]),
        ("forged heads", forged),
    ] {
        scan(name, &noise);
    }
}

fn secret() -> Secret {
    Secret::new(b"sixteen of them!")
}

fn prepare(writer: &mut Writer, disk: &mut Disk) {
    while let Some(prepare) = writer.prepare() {
        if prepare.fill == Fill::Zeros {
            disk.insert(prepare.file, vec![0; prepare.bytes as usize]);
        }
        write(disk, prepare.file, 0, &prepare.head);
        writer.handle_prepared(prepare.segment);
    }
}

fn write(disk: &mut Disk, file: FileId, offset: u32, bytes: &[u8]) {
    if let Some(content) = disk.get_mut(&file) {
        let offset = offset as usize;
        content[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

fn started(disk: &mut Disk, writes: &mut Writes) -> Writer {
    let settings = Settings {
        first_segment_bytes: SEGMENT_BYTES,
        ..Settings::default()
    };
    let recovery = Recovery::new(secret(), Remembered::default(), &[]).expect("an empty directory");
    let recovered = recovery.finish().expect("an empty directory");
    let mut writer = Writer::new(recovered, &[], settings).expect("an empty directory");
    prepare(&mut writer, disk);
    writer.start(writes).expect("a segment is prepared");
    for part in writes.iter() {
        write(disk, part.file, part.offset, part.bytes);
    }
    writer
        .handle_synced(writer.written())
        .expect("it did not fail");
    writer
}

/// Fills half a segment in records of so many entries.
fn encode(command: usize, entries: usize) {
    let command = vec![7; command];
    let mut best = Duration::MAX;
    let mut records = 0;
    let mut bytes = 0;
    for _ in 0..ROUNDS {
        let (mut disk, mut writes) = (Disk::new(), Writes::default());
        let mut writer = started(&mut disk, &mut writes);
        let begin = Instant::now();
        (records, bytes) = (0, 0);
        while writer.written().offset < SEGMENT_BYTES / 2 {
            let next = writer.next_index(PartitionId(1));
            let batch: Vec<_> = (next..next + entries as u64)
                .map(|index| entry(index, &command))
                .collect();
            writer.append(&batch, &mut writes).expect("there is room");
            records += 1;
            bytes += writes.len();
        }
        best = best.min(begin.elapsed());
    }
    report(
        &format!("{entries} x {} B", command.len()),
        records,
        records * entries,
        bytes,
        best,
    );
}

fn entry(index: u64, command: &[u8]) -> Entry<'_> {
    Entry {
        partition: PartitionId(1),
        index: Index(index),
        wall_ms: 1_700_000_000_000,
        commands: command,
    }
}

/// A segment that is full but for its end, and where that is.
fn full(command: usize, entries: usize) -> (Disk, Position) {
    let command = vec![7; command];
    let (mut disk, mut writes) = (Disk::new(), Writes::default());
    let mut writer = started(&mut disk, &mut writes);
    let room = (entries * (command.len() + 32) + 4_096) as u32;
    while writer.written().offset + room < SEGMENT_BYTES - 2_000_000 {
        let next = writer.next_index(PartitionId(1));
        let batch: Vec<_> = (next..next + entries as u64)
            .map(|index| entry(index, &command))
            .collect();
        writer.append(&batch, &mut writes).expect("there is room");
        for part in writes.iter() {
            write(&mut disk, part.file, part.offset, part.bytes);
        }
    }
    (disk, writer.written())
}

fn starts(disk: &Disk) -> Vec<FileStart> {
    let start = |(file, content): (&FileId, &Vec<u8>)| {
        let mut head = [0; SEGMENT_HEAD_BYTES];
        head.copy_from_slice(&content[..SEGMENT_HEAD_BYTES]);
        FileStart {
            file: *file,
            bytes: content.len() as u64,
            head,
        }
    };
    disk.iter().map(start).collect()
}

/// Reads all of a log; returns its records and entries.
fn read(disk: &Disk) -> (usize, usize) {
    let starts = starts(disk);
    let mut recovery = Recovery::new(secret(), Remembered::default(), &starts).expect("no damage");
    let (mut records, mut entries) = (0, 0);
    while let Some(file) = recovery.wanted() {
        while let Some(record) = recovery.next(&disk[&file]).expect("no damage") {
            records += 1;
            entries += record.entries().count();
        }
    }
    recovery.finish().expect("no damage");
    (records, entries)
}

fn recover(command: usize, entries: usize) {
    let (disk, end) = full(command, entries);
    let mut best = Duration::MAX;
    let mut read_here = (0, 0);
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        read_here = read(&disk);
        best = best.min(begin.elapsed());
    }
    let name = format!("{entries} x {command} B");
    report(&name, read_here.0, read_here.1, end.offset as usize, best);
}

/// Records that are right in all that is checked before the seal, one behind the other.
fn forged_noise() -> Vec<u8> {
    let mut noise = vec![0; SEGMENT_BYTES as usize];
    for (index, head) in noise.chunks_exact_mut(16).enumerate() {
        head[..4].copy_from_slice(b"SwRc");
        head[4..8].copy_from_slice(&72u32.to_le_bytes());
        let position = Position {
            segment: sapwood_state::log::SegmentNumber(1),
            offset: index as u32 * 16,
        };
        head[8..16].copy_from_slice(&position.to_u64().to_le_bytes());
    }
    noise
}

fn scan(name: &str, noise: &[u8]) {
    let (mut disk, mut writes) = (Disk::new(), Writes::default());
    let end = started(&mut disk, &mut writes).written().offset as usize;
    disk.get_mut(&FileId(1)).expect("it is there")[end..].copy_from_slice(&noise[end..]);
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let (records, _) = read(&disk);
        assert_eq!(records, 1);
        best = best.min(begin.elapsed());
    }
    println!("  {name:>14}: {:.1} ms", best.as_secs_f64() * 1e3);
}

fn report(name: &str, records: usize, entries: usize, bytes: usize, took: Duration) {
    let seconds = took.as_secs_f64();
    println!(
        "  {name:>14}: {:7.0} MB/s, {:6.2}M records/s, {:6.2}M entries/s; {} MiB in {:.1} ms",
        bytes as f64 / seconds / 1e6,
        records as f64 / seconds / 1e6,
        entries as f64 / seconds / 1e6,
        bytes >> 20,
        seconds * 1e3
    );
}
