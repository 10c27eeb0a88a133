import Foundation

/// The tables that a host reads for the decoder.
struct Tables {
    let embedding, positions: Table
    let start, compress, extract: Table?

    init(_ bundle: URL, _ spec: Manifest.CoreML) throws {
        func open(_ name: String) throws -> Table { try Table(bundle.appendingPathComponent(name)) }
        (embedding, positions) = (try open(spec.embedding), try open(spec.positions))
        start = try (spec.patch?.start).map(open)
        compress = try (spec.patch?.compress_positions).map(open)
        extract = try (spec.patch?.extract_positions).map(open)
    }
}

/// A bundle that speaks by two engines; one utterance at a time.
public final class Voice<E: Engine> {
    public let manifest: Manifest
    private let source: any Source
    private let codec: E
    private let values: Table

    /// `bundle` holds manifest and tables; `decoder` and `codec` run its two packages.
    public init(bundle: URL, decoder: E, codec: E) throws {
        manifest = try Manifest(folder: bundle)
        guard let values = manifest.coreml.codec_values else { throw BundleError.unsupported("a decoder alone") }
        let tables = try Tables(bundle, manifest.coreml)
        source = manifest.patch == nil
            ? try TokenSource(decoder, manifest, tables) : try PatchSource(decoder, manifest, tables)
        self.codec = codec
        self.values = try Table(bundle.appendingPathComponent(values))
    }

    /// Samples of what follows the prefix `ids`, at most `maxTokens` codes.
    public func speak(prefix ids: [Int], maxTokens: Int, seed: UInt64, minTokens: Int = 0) throws -> [Float] {
        try sound(codes(prefix: ids, maxTokens: maxTokens, seed: seed, minTokens: minTokens))
    }

    /// The codes themselves, up to a stop, `maxTokens`, or the last position.
    public func codes(prefix ids: [Int], maxTokens: Int, seed: UInt64, minTokens: Int = 0) throws -> [Int] {
        guard let prompt = manifest.prompt, let sampling = manifest.sampling else {
            throw BundleError.unsupported("a decoder alone")
        }
        guard ids.count <= manifest.max_position else { throw BundleError.tooLong("\(ids.count) prefix tokens") }
        let sampler = Sampler(sampling, head: manifest.head, stop: prompt.stop, seed: seed, minTokens: minTokens)
        var codes: [Int] = []
        var said = try source.begin(ids, sampler)
        while true {
            codes += said.map { $0 - prompt.code_offset }
            if codes.count >= maxTokens { return Array(codes.prefix(maxTokens)) }
            if said.count < source.size || source.position >= manifest.max_position { return codes }
            said = try source.step()
        }
    }

    /// Samples of `codes`: long runs, then single ones; the codec's delay is dropped.
    public func sound(_ codes: [Int]) throws -> [Float] {
        guard let spec = manifest.codec else { throw BundleError.unsupported("a decoder alone") }
        var rest = (codes + Array(repeating: spec.flush_code, count: spec.flush_codes))[...]
        var states = try Dictionary(uniqueKeysWithValues: spec.states.map { ($0.name, try codec.value(Tensor($0.shape))) })
        var samples: [Float] = []
        while let size = manifest.coreml.codec_codes.filter({ $0 <= rest.count }).max() {
            var feeds = states
            feeds["values"] = try codec.value(Tensor(columns: rest.prefix(size).map(values.row)))
            let outputs = try codec.predict("codes_\(size)", feeds, nil)
            for name in states.keys { states[name] = outputs["next_\(name)"] }
            guard let made = outputs["audio"] else { throw BundleError.damaged("no output audio") }
            let audio = try codec.tensor(made).values  // [hop, N]: a code's samples are a column
            for code in 0..<size { samples += (0..<spec.hop).map { Float(audio[$0 * size + code]) } }
            rest = rest.dropFirst(size)
        }
        return Array(samples.dropFirst(spec.delay).prefix(codes.count * spec.hop))
    }
}
