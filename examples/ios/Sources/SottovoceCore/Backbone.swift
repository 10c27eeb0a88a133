/// The functions `prefill` and `decode` over one stream's caches, whatever places they read: tokens, or patches.
final class Backbone<E: Engine> {
    private(set) var slots: Slots
    private let functions: CachedFunctions<E>
    private let group: Manifest.Group
    private let spec: Manifest.CoreML
    private let positions: Table

    init(_ engine: E, _ manifest: Manifest, _ positions: Table) throws {
        (group, spec, self.positions) = (manifest.cache.groups[0], manifest.coreml, positions)
        slots = Slots(prefix: group.prefix, window: group.window)
        functions = try CachedFunctions(engine, group, "decode", stateful: spec.stateful)
    }

    /// Forgets the last utterance and reads a prefix; outputs of the last place, which goes through `decode`.
    func read(_ places: [[Float16]], at ends: [Int], _ more: [String: Tensor]) throws -> [String: E.Value] {
        guard !places.isEmpty, places.count <= group.prefix else { throw BundleError.tooLong("\(places.count) places") }
        try functions.reset()
        slots = Slots(prefix: group.prefix, window: group.window)
        let last = places.count - 1
        for start in stride(from: 0, to: last, by: spec.prefill_tokens) {
            let end = min(start + spec.prefill_tokens, last)
            try readChunk(Array(places[start..<end]), at: Array(ends[start..<end]))
        }
        slots.fill(1)
        return try decode(places[last], at: ends[last], slot: last, more)
    }

    /// Reads one place of what is said; outputs of `decode`.
    func say(_ place: [Float16], at position: Int, _ more: [String: Tensor]) throws -> [String: E.Value] {
        try decode(place, at: position, slot: slots.nextRingSlot(), more)
    }

    private func decode(_ place: [Float16], at position: Int, slot: Int, _ more: [String: Tensor]) throws -> [String: E.Value] {
        try run("decode", [place], [position], slots.masks(writing: slot).merging(more) { $1 })
    }

    /// Places into the next slots, padded to what the function takes; padding is written nowhere.
    private func readChunk(_ places: [[Float16]], at ends: [Int]) throws {
        let size = spec.prefill_tokens, start = slots.filled, last = places.count - 1
        let masks = [
            "attention_bias": Tensor(rows: size, group.slots) { row, slot in slot <= start + min(row, last) ? 0 : hidden },
            "cache_write": Tensor(rows: size, group.slots) { row, slot in row <= last && slot == start + row ? 1 : 0 },
        ]
        let padded = (0..<size).map { min($0, last) }
        _ = try run("prefill", padded.map { places[$0] }, padded.map { ends[$0] }, masks)
        slots.fill(places.count)
    }

    private func run(_ function: String, _ places: [[Float16]], _ ends: [Int], _ feeds: [String: Tensor]) throws
        -> [String: E.Value]
    {
        let rows = ends.map(positions.row)
        guard !spec.rotary else {
            let embeds = ["inputs_embeds": Tensor(columns: places)]
            return try functions.run(function, feeds.merging(embeds) { $1 }.merging(rotaryFeeds(rows)) { $1 })
        }
        let moved = zip(places, rows).map { zip($0, $1).map { Float16(Float($0) + Float($1)) } }
        return try functions.run(function, feeds.merging(["inputs_embeds": Tensor(columns: moved)]) { $1 })
    }
}
