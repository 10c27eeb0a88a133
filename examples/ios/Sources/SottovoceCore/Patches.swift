/// Tokens → patches, one stream at a time: a ring of all slots, in which token t takes slot t mod S.
final class Compressor<E: Engine> {
    private let engine: E
    private let embedding: Table
    private let positions: Table?
    private let functions: CachedFunctions<E>?
    private let columns, window: Int
    private var held: [Int?]
    private var heard = 0

    init(_ engine: E, _ manifest: Manifest, _ patch: Manifest.Patch, _ spec: Manifest.PatchFunctions, _ tables: Tables) throws {
        (self.engine, embedding, positions, window) = (engine, tables.embedding, tables.compress, patch.window ?? 0)
        columns = spec.compress.inputs.first { $0.name == "inputs_embeds" }?.shape.last ?? 0
        let group = manifest.cache.groups[1]
        held = Array(repeating: nil, count: group.window)
        functions = patch.window == nil ? nil
            : try CachedFunctions(engine, group, "compress", stateful: manifest.coreml.stateful)
    }

    /// Another stream: no slot can be seen.
    func begin() {
        heard = 0
        held = Array(repeating: nil, count: held.count)
    }

    /// The patch of the next tokens, k or the last few of a clip; the rest is padding.
    func patch(_ tokens: [Int]) throws -> [Float16] {
        let count = tokens.count, rows = (0..<columns).map { min($0, count - 1) }
        let share = Float16(1 / Double(count))
        let feeds = [
            "inputs_embeds": Tensor(columns: rows.map { embedding.row(tokens[$0]) }),
            "token_share": Tensor(rows: 1, columns) { _, column in column < count ? share : 0 },
        ]
        let outputs: [String: E.Value]
        if let functions, let positions {
            let seen = attention(rows.map { heard + $0 }, count, positions)
            outputs = try functions.run("compress", feeds.merging(seen) { $1 })
        } else {
            outputs = try engine.predict("compress", engine.values(feeds), nil)
        }
        heard += count
        guard let made = outputs["patch"] else { throw BundleError.damaged("no output patch") }
        return try engine.tensor(made).values
    }

    /// What columns of tokens `numbers` see, the first `count` of which are written.
    private func attention(_ numbers: [Int], _ count: Int, _ positions: Table) -> [String: Tensor] {
        let slots = held.count
        for number in numbers[..<count] { held[number % slots] = number }
        let seen = { [held, window] (column: Int, slot: Int) -> Bool in
            guard let number = held[slot] else { return false }
            return (0..<window).contains(numbers[column] - number)
        }
        return [
            "attention_bias": Tensor(rows: columns, slots) { column, slot in seen(column, slot) ? 0 : hidden },
            "cache_write": Tensor(rows: columns, slots) { $0 < count && numbers[$0] % slots == $1 ? 1 : 0 },
            "patch_bias": Tensor(rows: 1, columns) { _, column in column < count ? 0 : hidden },
        ].merging(rotaryFeeds(numbers.map(positions.row))) { $1 }
    }
}

/// What `decode` tells → logits of the tokens of a patch, one after the other.
final class Extractor<E: Engine> {
    private let engine: E
    private let spec: Manifest.PatchFunctions
    private let positions: Table
    private let functions: CachedFunctions<E>
    private let room: Int
    private var slots: Slots
    private var told: [String: E.Value] = [:]

    init(_ engine: E, _ manifest: Manifest, _ spec: Manifest.PatchFunctions, _ positions: Table) throws {
        let group = manifest.cache.groups[manifest.cache.groups.count - 1]
        (self.engine, self.spec, self.positions, room) = (engine, spec, positions, group.window)
        functions = try CachedFunctions(engine, group, "extract", stateful: manifest.coreml.stateful)
        slots = Slots(prefix: room, window: 0)
    }

    /// A patch that `outputs` of `decode` are about.
    func begin(_ outputs: [String: E.Value]) {
        slots = Slots(prefix: room, window: 0)
        told = outputs.filter { $0.key.hasPrefix("told_") }
    }

    /// Reads what stands before the next token; its logits.
    func logits(_ x: [Float16]) throws -> [Float] {
        let number = slots.filled
        slots.fill(1)
        var feeds = slots.masks(writing: number).merging(rotaryFeeds([positions.row(number)])) { $1 }
        feeds["inputs_embeds"] = Tensor(columns: [x])
        return try engine.logits(functions.run("extract", feeds, told), spec.extract)
    }
}

/// A voice whose steps say a patch of k tokens: one run of `compress` and of `decode`, and k of `extract`.
final class PatchSource<E: Engine>: Source {
    let size: Int
    private let backbone: Backbone<E>
    private let compressor: Compressor<E>
    private let extractor: Extractor<E>
    private let embedding: Table
    private let start: [Float16]
    private let codes: Range<Int>
    private let speaks: Bool
    private var sampler: Sampler?
    private var more: [String: Tensor] = [:]
    private var heard = 0
    private var said: [Int] = []

    init(_ engine: E, _ manifest: Manifest, _ tables: Tables) throws {
        guard let patch = manifest.patch, let spec = manifest.coreml.patch, let prompt = manifest.prompt,
            let start = tables.start, let extract = tables.extract
        else { throw BundleError.unsupported("patches without their functions") }
        (size, speaks, embedding, self.start) = (patch.size, patch.speaker > 0, tables.embedding, start.row(0))
        codes = prompt.code_offset..<(prompt.code_offset + prompt.code_count)
        backbone = try Backbone(engine, manifest, tables.positions)
        compressor = try Compressor(engine, manifest, patch, spec, tables)
        extractor = try Extractor(engine, manifest, spec, extract)
    }

    /// That of the last token of the patch that the next step reads.
    var position: Int { heard + size - 1 }

    func begin(_ prefix: [Int], _ sampler: Sampler) throws -> [Int] {
        self.sampler = sampler
        compressor.begin()
        let clip = prefix.filter(codes.contains)
        let patches = try stride(from: 0, to: clip.count, by: size)
            .map { try compressor.patch(Array(clip[$0..<min($0 + size, clip.count)])) }
        more = speaks ? ["speaker": Tensor(columns: [mean(patches)])] : [:]
        var places: [[Float16]] = [], ends: [Int] = [], seen = 0
        for (position, token) in prefix.enumerated() {
            let code = codes.contains(token)
            if !code || seen % size == 0 {
                places.append(code ? patches[seen / size] : embedding.row(token))
                ends.append(position)
            }
            ends[ends.count - 1] = position
            seen += code ? 1 : 0
        }
        compressor.begin()
        heard = prefix.count
        return try say(backbone.read(places, at: ends, more))
    }

    func step() throws -> [Int] {
        let outputs = try backbone.say(compressor.patch(said), at: position, more)
        heard += size
        return try say(outputs)
    }

    /// The tokens of the patch that `outputs` are about, up to a stop.
    private func say(_ outputs: [String: E.Value]) throws -> [Int] {
        extractor.begin(outputs)
        said = []
        var x = start
        while said.count < size, let token = sampler?.draw(try extractor.logits(x)) {
            said.append(token)
            x = embedding.row(token)
        }
        return said
    }

    private func mean(_ patches: [[Float16]]) -> [Float16] {
        var sum = Array(repeating: Float(0), count: start.count)
        for patch in patches { for (index, value) in patch.enumerated() { sum[index] += Float(value) } }
        return sum.map { Float16(patches.isEmpty ? 0 : $0 / Float(patches.count)) }
    }
}
