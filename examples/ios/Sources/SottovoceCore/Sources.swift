/// Says one utterance at a time, `size` tokens with each step.
protocol Source: AnyObject {
    var size: Int { get }
    /// Position of what the next step reads.
    var position: Int { get }
    /// Forgets the last utterance and reads the prefix; the first tokens, fewer than `size` where a stop was drawn.
    func begin(_ prefix: [Int], _ sampler: Sampler) throws -> [Int]
    /// Reads what was said last; the next tokens, fewer than `size` where a stop was drawn.
    func step() throws -> [Int]
}

/// A voice whose steps say one token.
final class TokenSource<E: Engine>: Source {
    let size = 1
    private let engine: E
    private let manifest: Manifest
    private let backbone: Backbone<E>
    private let embedding: Table
    private var sampler: Sampler?
    private var said = 0

    init(_ engine: E, _ manifest: Manifest, _ tables: Tables) throws {
        (self.engine, self.manifest, embedding) = (engine, manifest, tables.embedding)
        backbone = try Backbone(engine, manifest, tables.positions)
    }

    var position: Int { backbone.slots.position }

    func begin(_ prefix: [Int], _ sampler: Sampler) throws -> [Int] {
        self.sampler = sampler
        return try draw(backbone.read(prefix.map(embedding.row), at: Array(prefix.indices), [:]))
    }

    func step() throws -> [Int] { try draw(backbone.say(embedding.row(said), at: position, [:])) }

    private func draw(_ outputs: [String: E.Value]) throws -> [Int] {
        guard let token = sampler?.draw(try engine.logits(outputs, manifest.io)) else { return [] }
        said = token
        return [token]
    }
}
